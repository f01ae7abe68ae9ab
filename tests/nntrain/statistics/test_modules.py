"""The watched modules, and the errors of selections that match nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nntrain.statistics import ActivationStats, GradientStats, Statistics
from tests.nntrain.statistics.toys import digits_learner, first_row


def _first_only(module: type[nn.Module]) -> Callable[[str, nn.Module], bool]:
    return lambda name, candidate: isinstance(candidate, module) and name.endswith("0")


@pytest.mark.parametrize(
    ("modules", "layers"),
    [
        (None, ["0", "2.0", "2.1", "4"]),
        (["2.1", "0"], ["0", "2.1"]),
        ([nn.Linear], ["0", "2.0", "4"]),
        ([nn.ReLU, "2"], ["2", "2.1"]),
        (_first_only(nn.Linear), ["0", "2.0"]),
        (["model"], ["model"]),
    ],
)
def test_modules_choose_the_layers(modules: Any, layers: list[str]) -> None:
    block = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    model = nn.Sequential(
        nn.Linear(2, 3), nn.Dropout(0.5), block, nn.Flatten(), nn.Linear(4, 1), nn.Identity()
    )
    stats = ActivationStats(modules=modules)
    row = first_row(stats, model, torch.randn(6, 2), torch.randn(6, 1))
    assert stats.layers == layers
    assert list(row) == [
        f"act/{layer}/{name}"
        for layer in layers
        for name in ("mean", "std", "dead_frac", "max_abs")
    ]


def test_a_model_that_is_one_layer_is_called_model() -> None:
    assert "act/model/mean" in first_row(
        ActivationStats(), nn.Linear(2, 1), torch.randn(6, 2), torch.randn(6, 1)
    )


@pytest.mark.parametrize(
    ("kind", "modules", "message"),
    [
        (ActivationStats, ["3"], r"has no module '3': expected one of 0, 1, 2, model\."),
        (ActivationStats, ["modl"], r"did you mean 'model'\?"),
        (ActivationStats, [nn.Conv2d], "selects no modules: choose from model, 0, 1, 2"),
        (
            GradientStats,
            ["0", "1"],
            r"must own trainable parameters, but 1 does not: choose from 0, 2\.",
        ),
    ],
)
def test_modules_that_match_nothing_are_an_error_that_lists_the_modules(
    kind: type[Statistics], modules: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        digits_learner(kind(modules=modules)).fit(1)


@pytest.mark.parametrize(
    ("modules", "message"), [("0", r"write \[0\]"), ([0], "quote names, as in '0'")]
)
def test_modules_that_are_not_a_list_of_names_are_refused_at_once(
    modules: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        ActivationStats(modules=modules)
