import functools
from typing import Any

import pytest
import sklearn.metrics as skm
import torch
from torch import Tensor

from nntrain.metrics import (
    AccumMetric,
    AvgLoss,
    AvgMetric,
    AvgSmoothLoss,
    AvgSmoothMetric,
    accuracy,
    accuracy_multi,
    as_metric,
    error_rate,
    mae,
    mse,
    r2_score,
    rmse,
    skm_to_fastai,
    top_k_accuracy,
)
from tests.common.metrics import a_batch, data_of, mean_of, seen
from tests.common.reference import reference

REFERENCE = reference("metrics")


def mean_product(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.double() * target).mean()


def mean_power(pred: Tensor, target: Tensor, power: float) -> Tensor:
    return (pred.double().abs() ** power).mean()


def difference(first: Any, second: Any) -> float:
    return float((first * range(len(first))).sum() - second.sum())


LIKE_FASTAI: dict[str, dict[str, Any]] = {
    "classes": {
        "accuracy": accuracy,
        "accuracy_avg": AvgMetric(accuracy),
        "error_rate": error_rate,
        "top_2_accuracy": functools.partial(top_k_accuracy, k=2),
        "argmax": AccumMetric(mean_product, dim_argmax=1),
        "argmax_last": AccumMetric(mean_product, dim_argmax=-1),
        "softmax": AccumMetric(
            mean_power, dim_argmax=1, activation="softmax", flatten=False, power=2
        ),
        "softmax_thresh": AccumMetric(
            mean_of, dim_argmax=1, activation="softmax", flatten=False, thresh=0.4
        ),
        "argmax_thresh": AccumMetric(mean_of, dim_argmax=1, thresh=0.5),
        "no_flatten": AccumMetric(mean_power, flatten=False, power=3),
        "to_np_invert": AccumMetric(difference, dim_argmax=1, to_np=True, invert_arg=True),
        "to_np": AccumMetric(difference, dim_argmax=1, to_np=True),
        "f1_macro": skm_to_fastai(skm.f1_score, average="macro"),
        "precision_weighted": skm_to_fastai(skm.precision_score, average="weighted"),
        "cohen_kappa": skm_to_fastai(skm.cohen_kappa_score, weights="quadratic"),
        "roc_auc_ovr": skm_to_fastai(
            skm.roc_auc_score, activation="softmax", flatten=False, multi_class="ovr"
        ),
    },
    "binary": {
        "binary_softmax": AccumMetric(mean_product, dim_argmax=1, activation="binary_softmax"),
        "binary_softmax_thresh": AccumMetric(
            mean_product, dim_argmax=1, activation="binary_softmax", thresh=0.3
        ),
        "roc_auc": skm_to_fastai(skm.roc_auc_score, activation="binary_softmax"),
        "f1": skm_to_fastai(skm.f1_score),
    },
    "labels": {
        "accuracy_multi": functools.partial(accuracy_multi, thresh=0.6),
        "accuracy_multi_no_sigmoid": functools.partial(accuracy_multi, thresh=0.1, sigmoid=False),
        "sigmoid": AccumMetric(mean_product, activation="sigmoid"),
        "sigmoid_thresh": AccumMetric(mean_product, activation="sigmoid", thresh=0.7),
        "thresh": AccumMetric(mean_product, thresh=0.25),
        "f1_multi": skm_to_fastai(skm.f1_score, thresh=0.5, flatten=False, average="macro"),
        "accuracy_set": skm_to_fastai(skm.accuracy_score, thresh=0.5, flatten=False),
        "roc_auc_multi": skm_to_fastai(
            skm.roc_auc_score, activation="sigmoid", is_class=False, flatten=False
        ),
    },
    "values": {
        "mse": mse,
        "mae": mae,
        "rmse": rmse,
        "r2": r2_score,
        "explained_variance": skm_to_fastai(skm.explained_variance_score, is_class=False),
        "avg_loss": AvgLoss(name="avg_loss"),
    },
}
CASES = [(data, name) for data, metrics in LIKE_FASTAI.items() for name in metrics]


def test_every_value_of_fastai_is_compared() -> None:
    assert {
        (data, name)
        for data, values in REFERENCE["values"].items()
        for name in values
        if name != "loss"
    } == set(CASES)


@pytest.mark.parametrize(("data", "name"), CASES)
def test_a_metric_gives_the_value_of_fastai(data: str, name: str) -> None:
    metric = as_metric(LIKE_FASTAI[data][name])
    row = seen(*data_of(data), metric)
    assert row[f"valid/{metric.name}"] == pytest.approx(REFERENCE["values"][data][name], rel=2e-6)
    assert row["valid/loss"] == pytest.approx(REFERENCE["values"][data]["loss"], rel=1e-6)


@pytest.mark.parametrize("beta", [0.98, 0.5, 0.0])
def test_the_smoothed_loss_equals_fastais_after_each_batch(beta: float) -> None:
    metric, values = AvgSmoothLoss(beta), []
    for loss in REFERENCE["losses"]:
        metric.accumulate(a_batch(loss=torch.tensor(loss)))
        assert metric.value is not None
        values.append(metric.value.item())
    assert values == pytest.approx(REFERENCE["smooth"][str(beta)], rel=1e-5)


def test_a_smoothed_metric_is_smoothed_as_the_loss_is() -> None:
    pred = torch.tensor(REFERENCE["losses"])[:, None]
    metric = AvgSmoothMetric(lambda pred, target: pred.mean(), beta=0.5, name="smooth")
    row = seen(pred, pred, metric, bs=1)
    assert row["valid/smooth"] == pytest.approx(REFERENCE["smooth"]["0.5"][-1], rel=1e-5)
