"""Initial weights: those that keep the spread of activations the same from layer to layer."""

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
"""The activations by the names under which a config may ask for them."""

Activation: TypeAlias = str | Callable[[], nn.Module]
"""One of `ACTIVATIONS` by name, or what makes such a module, as `torch.nn.PReLU` does."""

Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv2d)


def make_activation(act: Activation) -> nn.Module:
    """A new activation module.

    Raises:
        ValueError: if there is none of that name; the message lists those there are.
    """
    if not isinstance(act, str):
        return act()
    if act not in ACTIVATIONS:
        raise ValueError(f"act={act!r} is no activation: choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[act]()


def activation_gain(act: Activation) -> float:
    """What weights after an activation are scaled by: 1 / sqrt(E[act(z)^2]) for a standard normal z; sqrt(2) for ReLU.

    Source: He et al., 2015, https://arxiv.org/abs/1502.01852, section 2.2, whose argument holds for any activation.
    """
    z = torch.linspace(-10, 10, 20001)
    density = torch.exp(-z.square() / 2)
    with torch.no_grad():
        second_moment = (make_activation(act)(z).square() * density).sum() / density.sum()
    return float(second_moment.rsqrt())


def kaiming(layer: Layer, gain: float = 1.0) -> Layer:
    """Draws the weights of `layer` from a normal distribution of std `gain / sqrt(fan_in)`, zeroes its bias, returns it.

    With the gain of the activation before it (1 where there is none) its outputs have the spread of that one's inputs.
    Source: He et al., 2015, https://arxiv.org/abs/1502.01852.
    """
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / fan_in**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
