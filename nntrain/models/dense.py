"""Models of fully connected layers."""

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
    """Makes a multi-layer perceptron.

    It flattens inputs `(batch, ...)` with `n_in` values per item and maps them to
    `(batch, n_out)`. The modules are `flatten`; for each hidden layer i, `linear<i>`, `norm<i>`,
    `act<i>` and `dropout<i>`; and `head`.

    Args:
        n_in: number of values of an input item.
        hidden: number of units of each hidden layer; one number for one layer, an empty list for a
            linear model.
        n_out: number of outputs, such as classes.
        act: activation, by name or as a callable that makes the module.
        dropout: share of hidden units that are zeroed in training.
        norm: whether to add batch normalization before each activation.

    Raises:
        ValueError: if a size is less than 1, or `act` is unknown.
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
    """An encoder and a decoder; the output has the shape of the input `(batch, ...)`."""

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
    """Makes an autoencoder of two perceptrons; the decoder mirrors the encoder.

    The output is linear.

    Args:
        n_in: number of values of an input item.
        hidden: number of units of each hidden layer of the encoder; one number for one layer.
        n_latent: number of values of the code between encoder and decoder.
        act: activation, by name or as a callable that makes the module.
        dropout: share of hidden units that are zeroed in training.

    Raises:
        ValueError: if a size is less than 1, or `act` is unknown.
    """
    _check_sizes(n_latent=n_latent)
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    encoder = mlp(n_in, widths, n_latent, act=act, dropout=dropout)
    return Autoencoder(encoder, mlp(n_latent, widths[::-1], n_in, act=act, dropout=dropout))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1.")
