import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nntrain.models import ACTIVATIONS, activation_gain, kaiming, make_activation


@pytest.mark.parametrize(
    ("act", "gain"),
    [
        ("relu", math.sqrt(2)),  # E[max(z, 0)^2] = 1/2
        ("leaky_relu", math.sqrt(2 / (1 + 0.01**2))),  # torch's own formula
        (nn.Identity, 1.0),
        (lambda: nn.LeakyReLU(1.0), 1.0),
        (lambda: nn.Threshold(-100, 0), 1.0),
    ],
)
def test_the_gain_is_the_closed_form_where_there_is_one(
    act: str | Callable[[], nn.Module], gain: float
) -> None:
    assert activation_gain(act) == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_the_gain_brings_an_activation_of_normal_numbers_to_mean_square_one(act: str) -> None:
    z = torch.randn(1_000_000)
    assert (make_activation(act)(z) * activation_gain(act)).square().mean() == pytest.approx(
        1, rel=0.01
    )


def test_making_the_gain_of_an_activation_with_parameters_needs_no_gradient() -> None:
    assert activation_gain(nn.PReLU) == pytest.approx(math.sqrt(2 / (1 + 0.25**2)), rel=1e-4)


def test_each_activation_is_a_new_module() -> None:
    assert make_activation("relu") is not make_activation("relu")
    assert isinstance(make_activation(nn.PReLU), nn.PReLU)


def test_an_unknown_activation_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"act='rellu' must be one of relu, leaky_relu, .*, sigmoid\.",
    ):
        make_activation("rellu")


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Linear(400, 500), 400),
        (nn.Conv2d(16, 200, 5), 16 * 25),
        (nn.Conv2d(32, 600, 3, groups=2), 16 * 9),
    ],
)
def test_weights_have_the_std_of_the_gain_over_the_root_of_the_fan_in(
    layer: nn.Linear | nn.Conv2d, fan_in: int
) -> None:
    assert kaiming(layer, gain=1.5) is layer
    weight = layer.weight.detach()
    assert weight.std() == pytest.approx(1.5 / math.sqrt(fan_in), rel=0.02)
    assert weight.mean() == pytest.approx(0, abs=0.01 / math.sqrt(fan_in))
    assert layer.bias is not None
    assert layer.bias.abs().max() == 0


def test_a_layer_without_bias_gets_no_bias() -> None:
    assert kaiming(nn.Linear(2, 3, bias=False)).bias is None
