"""Models built from fully connected layers."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from nntrain.models.inits import Activation, activation_gain, kaiming, make_activation


def mlp(
    n_in: int = 64,
    hidden: int | Sequence[int] = 128,
    n_out: int = 10,
    *,
    act: Activation = "relu",
    dropout: float = 0.0,
    norm: bool = False,
) -> nn.Sequential:
    """Creates a multi-layer perceptron.

    The input shape is `(batch, ...)` with `n_in` values per item; inputs are flattened. The output
    shape is `(batch, n_out)`. The modules are `flatten`, then `linear<i>`, `norm<i>`, `act<i>` and
    `dropout<i>` for each hidden layer i, then `head`.

    Args:
        n_in: number of values in an input item.
        hidden: number of units in each hidden layer. A single number creates one hidden layer; an
            empty list creates a linear model.
        n_out: number of outputs, such as the number of classes.
        act: name of the activation, or a callable that returns an activation module.
        dropout: dropout probability of the hidden units.
        norm: whether to add batch normalization before each activation.

    Raises:
        ValueError: if a size is less than 1, or if `act` is unknown.
    """
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    _check_sizes(n_in=n_in, n_out=n_out, hidden=min(widths, default=1))
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    gain = 1.0
    for i, (fan_in, width) in enumerate(zip([n_in, *widths], widths, strict=False)):
        layers[f"linear{i}"] = kaiming(nn.Linear(fan_in, width), gain)
        if norm:
            layers[f"norm{i}"] = nn.BatchNorm1d(width)
        layers[f"act{i}"] = make_activation(act)
        if dropout:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
        gain = activation_gain(act)
    layers["head"] = kaiming(nn.Linear([n_in, *widths][-1], n_out), gain)
    return nn.Sequential(layers)


class Autoencoder(nn.Module):
    """Encoder and decoder; the output has the same shape as the input `(batch, ...)`."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """Encodes and decodes a batch."""
        decoded: Tensor = self.decoder(self.encoder(x))
        return decoded.view_as(x)


def autoencoder(
    n_in: int = 64,
    hidden: int | Sequence[int] = 64,
    n_latent: int = 16,
    *,
    act: Activation = "relu",
    dropout: float = 0.0,
) -> Autoencoder:
    """Creates an autoencoder from two multi-layer perceptrons.

    The hidden layers of the decoder have the sizes of the encoder in reverse order. The output
    layer is linear.

    Args:
        n_in: number of values in an input item.
        hidden: number of units in each hidden layer of the encoder. A single number creates one
            layer.
        n_latent: number of values in the code between encoder and decoder.
        act: name of the activation, or a callable that returns an activation module.
        dropout: dropout probability of the hidden units.

    Raises:
        ValueError: if a size is less than 1, or if `act` is unknown.
    """
    _check_sizes(n_latent=n_latent)
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    encoder = mlp(n_in, widths, n_latent, act=act, dropout=dropout)
    return Autoencoder(encoder, mlp(n_latent, widths[::-1], n_in, act=act, dropout=dropout))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1.")
