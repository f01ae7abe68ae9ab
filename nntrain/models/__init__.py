"""Models with initialized weights, and with module names that are readable in metric keys."""

from nntrain.models.conv import ResBlock, cnn, conv_block, resnet
from nntrain.models.dense import Autoencoder, autoencoder, mlp
from nntrain.models.inits import ACTIVATIONS, activation_gain, kaiming, make_activation

__all__ = [
    "ACTIVATIONS",
    "Autoencoder",
    "ResBlock",
    "activation_gain",
    "autoencoder",
    "cnn",
    "conv_block",
    "kaiming",
    "make_activation",
    "mlp",
    "resnet",
]
