import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics import classification

from nntrain import Learner
from nntrain.metrics import (
    AccumMetric,
    AvgLoss,
    AvgMetric,
    AvgSmoothMetric,
    accuracy,
    as_metric,
    mae,
    r2_score,
    rmse,
)
from tests.common.metrics import seen
from tests.common.toys import Lists, batches, toy_learner


def test_plain_rmse_and_r2_are_computed_over_the_whole_set() -> None:
    pred, target = torch.tensor([[0.0], [0.0], [0.0]]), torch.tensor([[1.0], [1.0], [4.0]])
    row = seen(pred, target, rmse, functools.partial(r2_score), bs=2)
    # The mean over batches would be (2 * 1 + 4) / 3.
    assert row["valid/rmse"] == pytest.approx(math.sqrt(18 / 3))
    assert row["valid/r2_score"] == pytest.approx(1 - 18 / 6)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            [mae, mae],
            r"'mae' has the same name as another metric, "
            r"so both would be recorded as 'train/mae': .* name= to",
        ),
        ([AccumMetric(mae), mae], "both would be recorded as 'valid/mae'"),
        ([AvgLoss()], "'loss' has the same name as the loss itself, which is always recorded"),
    ],
)
def test_two_metrics_of_one_name_are_refused(metrics: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_learner(metrics=metrics)


def test_one_name_may_stand_for_two_metrics_of_different_parts() -> None:
    learn = toy_learner(
        metrics=[AvgSmoothMetric(mae, name="m", part="train"), AccumMetric(mae, name="m")]
    )
    learn.fit(1)
    assert {"train/m", "valid/m"} <= set(learn.recorder.row)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([AvgLoss], r"AvgLoss is a class, not a metric: pass an instance, AvgLoss\(\.\.\.\)"),
        ([classification.MulticlassAUROC], "MulticlassAUROC is a class"),
        (["accuracy"], "'accuracy' is not a metric: pass a function"),
        (accuracy, r"must be a list of metrics, such as \[accuracy\], but got a function"),
        ("accuracy", r"must be a list of metrics, such as \[accuracy\], but got a str"),
        ({"accuracy": accuracy}, "but got a dict"),
        (torchmetrics.MetricCollection([]), "but got a MetricCollection"),
    ],
)
def test_an_object_that_is_not_a_metric_is_refused(metrics: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        toy_learner(metrics=metrics)


def test_a_collection_is_not_a_single_metric() -> None:
    with pytest.raises(TypeError, match="contains several metrics"):
        as_metric(torchmetrics.MetricCollection([]))


def parts_loss(**extra: Tensor) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    def loss(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"recon": (pred - target).square().mean(), "size": pred.abs().mean(), **extra}

    return loss


def test_the_parts_of_a_loss_are_recorded_weighted_by_batch_size() -> None:
    pred, target = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[0.0], [0.0], [2.0]])
    model = nn.Sequential(nn.Identity())
    row = Learner(model, Lists([], batches(pred, target, 2)), parts_loss(), device="cpu").validate()
    assert row == {"valid/loss": 10.0, "valid/recon": 7.0, "valid/size": 3.0}


def test_the_parts_of_a_loss_are_recorded_in_training_too() -> None:
    learn = toy_learner(loss_func=parts_loss())
    learn.fit(1)
    row = learn.recorder.row
    assert row["train/recon"] + row["train/size"] == pytest.approx(row["train/loss"], rel=1e-6)
    assert row["valid/recon"] + row["valid/size"] == pytest.approx(row["valid/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("mae", torch.tensor(0.0), "'mae' of the loss has the same name as another metric: rename"),
        ("loss", torch.tensor(0.0), "'loss' of the loss has the same name as the loss itself"),
        ("kl (nats)", torch.tensor(0.0), "rename it, for example to 'kl_nats'"),
    ],
)
def test_a_part_of_the_loss_with_a_bad_name_is_refused(
    part: str, value: Tensor, message: str
) -> None:
    learn = toy_learner(
        loss_func=parts_loss(**{part: value}), metrics=[AvgMetric(mae, part="valid")]
    )
    with pytest.raises(ValueError, match=message):
        learn.fit(1)


def test_a_part_of_the_loss_that_is_not_one_number_is_refused() -> None:
    learn = toy_learner(loss_func=lambda pred, target: {"each": (pred - target)[:, 0].square()})
    with pytest.raises(ValueError, match=r"'each' of the loss has the shape \(8,\)"):
        learn.fit(1)
