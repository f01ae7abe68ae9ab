import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import sklearn.metrics as skm
import torch
from torch import Tensor

from nntrain.metrics import (
    accuracy,
    accuracy_multi,
    error_rate,
    mae,
    mse,
    r2_score,
    rmse,
    top_k_accuracy,
)
from tests.common.metrics import data_of


def test_regression_functions_agree_with_scikit_learn() -> None:
    pred, target = data_of("values")
    for ours, theirs in [
        (mse, skm.mean_squared_error),
        (mae, skm.mean_absolute_error),
        (rmse, skm.root_mean_squared_error),
        (r2_score, skm.r2_score),
    ]:
        assert ours(pred, target).item() == pytest.approx(theirs(target, pred), rel=1e-5)


@pytest.mark.parametrize(
    ("pred", "value"), [([2.0, 2.0], 1.0), ([2.0, 3.0], 0.0), ([math.nan, 2.0], math.nan)]
)
def test_r2_of_a_constant_target(pred: list[float], value: float) -> None:
    assert r2_score(torch.tensor(pred), torch.tensor([2.0, 2.0])).item() == pytest.approx(
        value, nan_ok=True
    )


@pytest.mark.parametrize("k", [1, 2])
def test_top_k_accuracy_agrees_with_scikit_learn(k: int) -> None:
    pred, target = data_of("classes")
    assert top_k_accuracy(pred, target, k=k).item() == pytest.approx(
        skm.top_k_accuracy_score(target, pred, k=k)
    )


def test_every_label_is_among_as_many_scores_as_there_are_classes() -> None:
    assert top_k_accuracy(*data_of("classes"), k=3).item() == 1.0


def test_accuracy_counts_each_pixel_with_the_classes_in_axis_1() -> None:
    pred = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # (items=1, classes=2, height=1, width=2)
    assert accuracy(pred, torch.tensor([[[0, 1]]])).item() == 1.0
    assert accuracy(pred, torch.tensor([[[0, 0]]])).item() == 0.5


def test_accuracy_takes_another_axis_for_the_classes() -> None:
    pred = torch.eye(3).expand(2, 3, 3)[:, :2]  # (items=2, words=2, classes=3)
    target = torch.tensor([[0, 1], [0, 2]])
    assert accuracy(pred, target, axis=-1).item() == 0.75
    assert top_k_accuracy(pred, target, k=1, axis=-1).item() == 0.75


@pytest.mark.parametrize("func", [accuracy, error_rate, functools.partial(top_k_accuracy, k=1)])
def test_labels_in_a_column_are_not_broadcast(func: Callable[..., Tensor]) -> None:
    pred, target = data_of("classes")
    assert func(pred, target[:, None]).item() == func(pred, target).item()


@pytest.mark.parametrize("func", [mse, mae, rmse, r2_score])
def test_targets_in_a_column_are_not_broadcast(func: Callable[..., Tensor]) -> None:
    pred, target = data_of("values")
    assert func(pred[:, 0], target).item() == func(pred, target).item()


@pytest.mark.parametrize(
    ("func", "pred", "target", "message"),
    [
        (accuracy, (8, 3), (8, 3), "do not match: pass one label"),
        (accuracy, (8, 1), (8,), "pass a score for each class, or use accuracy_multi"),
        (accuracy, (8,), (8,), "pass a score for each class, or use accuracy_multi"),
        (
            top_k_accuracy,
            (8, 3),
            (8,),
            "k=5 of top_k_accuracy must be between 1 and the number of classes, 3",
        ),
        (mse, (8, 3), (3, 8), "do not match: pass one label"),
        (accuracy_multi, (8, 3), (8,), "do not match: pass one label"),
    ],
)
def test_shapes_that_do_not_match_are_refused(
    func: Any, pred: tuple[int, ...], target: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        func(torch.zeros(pred), torch.zeros(target))
