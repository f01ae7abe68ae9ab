import functools
import math
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics as skm
import torch
from torch import nn
from torchmetrics import classification
from torchmetrics.functional.classification import multiclass_accuracy

from nntrain import Callback, Learner
from nntrain.metrics import (
    AccumMetric,
    AvgLoss,
    AvgMetric,
    AvgSmoothLoss,
    AvgSmoothMetric,
    Metric,
    accuracy,
    as_metric,
    error_rate,
    mae,
    mse,
    r2_score,
    rmse,
    skm_to_fastai,
    top_k_accuracy,
)
from nntrain.testing import counted_reads
from tests.common.metrics import a_batch, seen
from tests.common.toys import Lists, batches, toy_learner


def test_a_metric_that_saw_nothing_has_no_value() -> None:
    for metric in (
        AvgLoss(),
        AvgMetric(mae),
        AvgSmoothLoss(),
        AvgSmoothMetric(mae),
        AccumMetric(mae),
    ):
        assert metric.value is None


@pytest.mark.parametrize(
    "metric", [AvgMetric(mae), AvgSmoothMetric(mae), AvgSmoothLoss(part="valid"), AccumMetric(mae)]
)
def test_nan_in_one_batch_makes_the_metric_nan(metric: Metric) -> None:
    pred = torch.tensor([[0.0], [math.nan], [0.0]])
    row = seen(pred, torch.zeros(3, 1), metric, bs=1)
    assert math.isnan(row[f"valid/{metric.name}"])
    assert math.isnan(row["valid/loss"])


def test_metrics_in_training_are_of_the_predictions_before_each_step() -> None:
    learn = toy_learner(metrics=[mse, AccumMetric(mse, name="accum", part="train")])
    learn.fit(1)
    row = learn.recorder.row
    assert row["train/mse"] == pytest.approx(row["train/loss"], rel=1e-6)
    assert row["train/accum"] == pytest.approx(row["train/loss"], rel=1e-6)


@pytest.mark.parametrize(
    "metrics",
    [
        [
            accuracy,
            error_rate,
            functools.partial(top_k_accuracy, k=2),
            AvgSmoothMetric(accuracy),
            AvgSmoothLoss(),
        ],
        [
            AccumMetric(
                multiclass_accuracy, part="both", flatten=False, num_classes=3, validate_args=False
            )
        ],
        [skm_to_fastai(skm.f1_score, average="macro", part="both")],
        [classification.MulticlassAUROC(3, validate_args=False)],
    ],
)
def test_no_metric_reads_the_device_per_batch(metrics: list[Any]) -> None:
    def reads(n: int) -> int:
        pred, target = torch.randn(n * 8, 3), torch.arange(n * 8) % 3
        learn = Learner(
            nn.Linear(3, 3),
            Lists(batches(pred, target, 8), batches(pred, target, 8)),
            nn.CrossEntropyLoss(),
            device="cpu",
        )
        learn.metrics = [as_metric(metric) for metric in metrics]
        with counted_reads() as counter:
            learn.fit(1)
        return counter.n

    assert reads(10) == reads(20)


def test_a_regression_metric_reads_nothing_per_batch() -> None:
    def reads(n: int) -> int:
        x = torch.randn(n * 8, 1)
        learn = toy_learner(
            Lists(batches(x, x, 8), batches(x, x, 8)), metrics=[mse, mae, rmse, r2_score]
        )
        with counted_reads() as counter:
            learn.fit(1)
        return counter.n

    assert reads(10) == reads(20)


def test_kept_predictions_hold_no_graph() -> None:
    metric = AccumMetric(mae, part="train")
    metric.accumulate(a_batch(torch.ones(2, requires_grad=True) * 2, torch.zeros(2)))
    assert not metric.state_dict()["batches"][0][0].requires_grad
    average = AvgMetric(mae)
    average.accumulate(a_batch(torch.ones(2, requires_grad=True) * 2, torch.zeros(2)))
    assert average.value is not None
    assert not average.value.requires_grad


def made_metrics() -> list[Metric]:
    return [
        AvgMetric(mae),
        AvgLoss(),
        AvgSmoothMetric(mae),
        AvgSmoothLoss(),
        AccumMetric(r2_score),
        AvgMetric(lambda pred, target: float(len(pred)), name="python"),
    ]


def feed(metric: Metric, start: int, end: int) -> None:
    gen = torch.Generator().manual_seed(1)
    pred = torch.randn(3000, 3, generator=gen)
    for i in range(start, end):
        metric.accumulate(a_batch(pred[i], pred[i].roll(1), loss=pred[i].square().mean()))


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("cut", [0, 1, 700, 1024, 1500])
def test_a_metric_resumed_within_an_epoch_gives_the_same_bits(
    index: int, cut: int, tmp_path: Path
) -> None:
    whole, first, second = (made_metrics()[index] for _ in range(3))
    feed(whole, 0, 2100)
    feed(first, 0, cut)
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    feed(second, cut, 2100)
    assert torch.equal(torch.as_tensor(second.value), torch.as_tensor(whole.value))
    feed(first, cut, 2100)
    # Saving did not change the metric.
    assert torch.equal(torch.as_tensor(first.value), torch.as_tensor(whole.value))


def test_a_scikit_learn_metric_can_be_saved_between_the_parts_of_an_epoch(
    tmp_path: Path,
) -> None:
    class Save(Callback):
        order = 80

        def after_train(self, learn: Learner) -> None:
            torch.save(learn.recorder.state_dict(), tmp_path / "state")

    metric = skm_to_fastai(skm.r2_score, is_class=False, part="train")
    toy_learner(metrics=[metric], cbs=[Save()]).fit(1)
    assert "train/r2_score" in torch.load(tmp_path / "state", weights_only=True)["pending"]
