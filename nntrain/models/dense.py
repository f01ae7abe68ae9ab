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
    """A multi-layer perceptron: `(batch, ...)` with `n_in` values an item, flattened, to `(batch, n_out)`.

    Its modules are `flatten`, then for hidden layer i `linear<i>`, `norm<i>`, `act<i>`, `dropout<i>`, and last `head`.

    Args:
        n_in: values of an input.
        hidden: units of each hidden layer; one number for one layer, an empty list for a linear model.
        n_out: outputs, such as classes.
        act: the activation, by name or as what makes one.
        dropout: share of hidden units that are zeroed in training.
        norm: put a batch normalisation before each activation.

    Raises:
        ValueError: if a size is less than 1, or there is no such activation.
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
    """An autoencoder of two perceptrons, the second the mirror of the first; the output is linear.

    Args:
        n_in: values of an input.
        hidden: units of each hidden layer of the encoder; one number for one layer.
        n_latent: values of the code between encoder and decoder.
        act: the activation, by name or as what makes one.
        dropout: share of hidden units that are zeroed in training.

    Raises:
        ValueError: if a size is less than 1, or there is no such activation.
    """
    _check_sizes(n_latent=n_latent)
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    encoder = mlp(n_in, widths, n_latent, act=act, dropout=dropout)
    return Autoencoder(encoder, mlp(n_latent, widths[::-1], n_in, act=act, dropout=dropout))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1.")
