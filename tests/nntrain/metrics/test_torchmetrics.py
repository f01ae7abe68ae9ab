from typing import Any

import pytest
import sklearn.metrics as skm
import torchmetrics
from torchmetrics import classification, regression
from torchmetrics.functional.classification import multiclass_accuracy

from nntrain.metrics import AccumMetric, AvgMetric, as_metric
from tests.common.metrics import data_of, seen
from tests.common.toys import batches


@pytest.mark.parametrize(
    ("metric", "same"),
    [
        (
            classification.MulticlassAccuracy(3, average="micro"),
            classification.MulticlassAccuracy(3, average="micro"),
        ),
        (classification.MulticlassAccuracy(3), classification.MulticlassAccuracy(3)),
        (classification.MulticlassAUROC(3), classification.MulticlassAUROC(3)),
        (classification.MulticlassF1Score(3), classification.MulticlassF1Score(3)),
        (
            AccumMetric(classification.MulticlassF1Score(3), flatten=False),
            classification.MulticlassF1Score(3),
        ),
        (
            AccumMetric(classification.MulticlassF1Score(3), dim_argmax=1),
            classification.MulticlassF1Score(3),
        ),
        (
            AccumMetric(multiclass_accuracy, flatten=False, num_classes=3),
            classification.MulticlassAccuracy(3),
        ),
    ],
)
def test_torchmetrics_gives_its_value_over_the_whole_set(
    metric: Any, same: torchmetrics.Metric
) -> None:
    pred, target = data_of("classes")
    metric = as_metric(metric)
    assert seen(pred, target, metric)[f"valid/{metric.name}"] == pytest.approx(
        same(pred, target).item(), rel=1e-6
    )


def test_a_torchmetrics_object_forgets_what_it_saw_before_and_keeps_nothing() -> None:
    pred, target = data_of("classes")
    used = classification.MulticlassAUROC(3, thresholds=None)
    used.update(-pred, target)
    same = classification.MulticlassAUROC(3, thresholds=None)
    assert seen(pred, target, used)["valid/multiclass_auroc"] == pytest.approx(
        same(pred, target).item()
    )
    assert used.preds == used.target == []


def test_torchmetrics_regression_gives_its_value_over_the_whole_set() -> None:
    pred, target = data_of("values")
    row = seen(pred, target, regression.R2Score(), regression.MeanSquaredError(squared=False))
    assert row["valid/r2_score"] == pytest.approx(skm.r2_score(target, pred), rel=1e-6)
    assert row["valid/mean_squared_error"] == pytest.approx(
        skm.root_mean_squared_error(target, pred), rel=1e-6
    )


def test_an_average_of_a_torchmetrics_object_is_the_weighted_mean_of_its_batches() -> None:
    pred, target = data_of("classes")
    row = seen(pred, target, AvgMetric(classification.MulticlassF1Score(3), name="f1"), bs=32)
    parts = [skm.f1_score(y, p.argmax(1), average="macro") for p, y in batches(pred, target, 32)]
    assert row["valid/f1"] == pytest.approx((parts[0] * 32 + parts[1] * 12) / 44, rel=1e-6)


def test_a_metric_collection_records_each_of_its_metrics_under_its_key() -> None:
    pred, target = data_of("classes")
    both = torchmetrics.MetricCollection(
        {"f1": classification.MulticlassF1Score(3), "auc": classification.MulticlassAUROC(3)},
        prefix="macro_",
    )
    row = seen(pred, target, both)
    assert {name: row[f"valid/{name}"] for name in ("macro_f1", "macro_auc")} == pytest.approx(
        {name: value.item() for name, value in both(pred, target).items()}
    )
