"""Weight initialization that preserves the variance of activations from layer to layer."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""The activations, by the names that configs use."""

Activation: TypeAlias = str | Callable[[], nn.Module]
"""A name in `ACTIVATIONS`, or a callable that returns a module, such as `torch.nn.PReLU`."""

Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv2d)


def make_activation(act: Activation) -> nn.Module:
    """Creates an activation module from its name or from a callable.

    Raises:
        ValueError: if the name is unknown; the message lists the known names.
    """
    if not isinstance(act, str):
        return act()
    if act not in ACTIVATIONS:
        raise ValueError(f"act={act!r} must be one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[act]()


def activation_gain(act: Activation) -> float:
    """Returns the gain for the initial weights of the layer after an activation.

    The gain is 1 / sqrt(E[act(z)^2]) for a standard normal z, which is sqrt(2) for ReLU. Source:
    He et al., 2015, https://arxiv.org/abs/1502.01852, section 2.2; the derivation is valid for any
    activation.
    """
    z = torch.linspace(-10, 10, 20001)
    density = torch.exp(-z.square() / 2)
    with torch.no_grad():
        second_moment = (make_activation(act)(z).square() * density).sum() / density.sum()
    return float(second_moment.rsqrt())


def kaiming(layer: Layer, gain: float = 1.0) -> Layer:
    """Initializes a layer and returns it: normal weights with std `gain / sqrt(fan_in)`, zero bias.

    `gain` is the gain of the activation before the layer, or 1 if there is no activation. With this
    gain, the outputs of the layer have the same variance as the inputs of the activation. Source:
    He et al., 2015, https://arxiv.org/abs/1502.01852.
    """
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / fan_in**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
