import doctest
import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as skm
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics import classification, regression
from torchmetrics.functional.classification import multiclass_accuracy

from nntrain import Callback, Learner
from nntrain.metrics import (
    AccumMetric,
    AvgLoss,
    AvgMetric,
    AvgSmoothLoss,
    AvgSmoothMetric,
    Metric,
    SmoothMean,
    WeightedMean,
    accuracy,
    accuracy_multi,
    as_metric,
    error_rate,
    func_name,
    mae,
    mse,
    r2_score,
    rmse,
    skm_to_fastai,
    top_k_accuracy,
)
from tests.common.spies import counted_reads
from tests.common.toys import Lists, batches, toy_learner

TESTS = Path(__file__).parents[1]
REFERENCE = json.loads((TESTS / "reference/metrics.json").read_text())


def mean_of(pred: Tensor, target: Tensor) -> Tensor:
    return pred.double().mean()


def mean_product(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.double() * target).mean()


def mean_power(pred: Tensor, target: Tensor, power: float) -> Tensor:
    return (pred.double().abs() ** power).mean()


def difference(first: Any, second: Any) -> float:
    return float((first * range(len(first))).sum() - second.sum())


def data_of(name: str) -> tuple[Tensor, Tensor]:
    data = REFERENCE["data"][name]
    return torch.tensor(data["pred"]), torch.tensor(data["target"])


def mean_loss(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.flatten(1)[:, 0] - target.float().reshape(len(target), -1)[:, 0]).abs().mean()


def seen(pred: Tensor, target: Tensor, *metrics: Any, bs: int = REFERENCE["batch_size"]) -> dict[str, float]:
    """What a Learner records for metrics over these predictions, in batches of which the last is smaller."""
    learn = Learner(nn.Identity(), Lists([], batches(pred, target, bs)), mean_loss, metrics=metrics, device="cpu")
    return learn.validate()


def a_batch(pred: Any = None, *targets: Tensor, loss: Any = None) -> Any:
    """As much of a learner as a metric sees."""
    return SimpleNamespace(pred=pred, xb=(torch.zeros(1),), yb=targets, loss=loss)


# --- the same numbers as the originals

LIKE_FASTAI: dict[str, dict[str, Any]] = {
    "classes": {
        "accuracy": accuracy,
        "accuracy_avg": AvgMetric(accuracy),
        "error_rate": error_rate,
        "top_2_accuracy": functools.partial(top_k_accuracy, k=2),
        "argmax": AccumMetric(mean_product, dim_argmax=1),
        "argmax_last": AccumMetric(mean_product, dim_argmax=-1),
        "softmax": AccumMetric(mean_power, dim_argmax=1, activation="softmax", flatten=False, power=2),
        "softmax_thresh": AccumMetric(mean_of, dim_argmax=1, activation="softmax", flatten=False, thresh=0.4),
        "argmax_thresh": AccumMetric(mean_of, dim_argmax=1, thresh=0.5),
        "no_flatten": AccumMetric(mean_power, flatten=False, power=3),
        "to_np_invert": AccumMetric(difference, dim_argmax=1, to_np=True, invert_arg=True),
        "to_np": AccumMetric(difference, dim_argmax=1, to_np=True),
        "f1_macro": skm_to_fastai(skm.f1_score, average="macro"),
        "precision_weighted": skm_to_fastai(skm.precision_score, average="weighted"),
        "cohen_kappa": skm_to_fastai(skm.cohen_kappa_score, weights="quadratic"),
        "roc_auc_ovr": skm_to_fastai(skm.roc_auc_score, activation="softmax", flatten=False, multi_class="ovr"),
    },
    "binary": {
        "binary_softmax": AccumMetric(mean_product, dim_argmax=1, activation="binary_softmax"),
        "binary_softmax_thresh": AccumMetric(mean_product, dim_argmax=1, activation="binary_softmax", thresh=0.3),
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
        "roc_auc_multi": skm_to_fastai(skm.roc_auc_score, activation="sigmoid", is_class=False, flatten=False),
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
    assert {(data, name) for data, values in REFERENCE["values"].items() for name in values if name != "loss"} == set(CASES)


@pytest.mark.parametrize(("data", "name"), CASES)
def test_a_metric_gives_the_value_of_fastai(data: str, name: str) -> None:
    metric = as_metric(LIKE_FASTAI[data][name])
    row = seen(*data_of(data), metric)
    assert row[f"valid/{metric.name}"] == pytest.approx(REFERENCE["values"][data][name], rel=2e-6)
    assert row["valid/loss"] == pytest.approx(REFERENCE["values"][data]["loss"], rel=1e-6)


@pytest.mark.parametrize("beta", [0.98, 0.5, 0.0])
def test_the_smoothed_loss_is_that_of_fastai_after_each_batch(beta: float) -> None:
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


@pytest.mark.parametrize(
    ("metric", "same"),
    [
        (classification.MulticlassAccuracy(3, average="micro"), classification.MulticlassAccuracy(3, average="micro")),
        (classification.MulticlassAccuracy(3), classification.MulticlassAccuracy(3)),
        (classification.MulticlassAUROC(3), classification.MulticlassAUROC(3)),
        (classification.MulticlassF1Score(3), classification.MulticlassF1Score(3)),
        (AccumMetric(classification.MulticlassF1Score(3), flatten=False), classification.MulticlassF1Score(3)),
        (AccumMetric(classification.MulticlassF1Score(3), dim_argmax=1), classification.MulticlassF1Score(3)),
        (AccumMetric(multiclass_accuracy, flatten=False, num_classes=3), classification.MulticlassAccuracy(3)),
    ],
)
def test_torchmetrics_gives_its_value_over_the_whole_set(metric: Any, same: torchmetrics.Metric) -> None:
    pred, target = data_of("classes")
    metric = as_metric(metric)
    assert seen(pred, target, metric)[f"valid/{metric.name}"] == pytest.approx(same(pred, target).item(), rel=1e-6)


def test_a_torchmetrics_object_forgets_what_it_saw_before_and_keeps_nothing() -> None:
    pred, target = data_of("classes")
    used = classification.MulticlassAUROC(3, thresholds=None)
    used.update(-pred, target)
    same = classification.MulticlassAUROC(3, thresholds=None)
    assert seen(pred, target, used)["valid/multiclass_auroc"] == pytest.approx(same(pred, target).item())
    assert used.preds == used.target == []


def test_torchmetrics_regression_gives_its_value_over_the_whole_set() -> None:
    pred, target = data_of("values")
    row = seen(pred, target, regression.R2Score(), regression.MeanSquaredError(squared=False))
    assert row["valid/r2_score"] == pytest.approx(skm.r2_score(target, pred), rel=1e-6)
    assert row["valid/mean_squared_error"] == pytest.approx(skm.root_mean_squared_error(target, pred), rel=1e-6)


def test_an_average_of_a_torchmetrics_object_is_the_weighted_mean_of_its_batches() -> None:
    pred, target = data_of("classes")
    row = seen(pred, target, AvgMetric(classification.MulticlassF1Score(3), name="f1"), bs=32)
    parts = [skm.f1_score(y, p.argmax(1), average="macro") for p, y in batches(pred, target, 32)]
    assert row["valid/f1"] == pytest.approx((parts[0] * 32 + parts[1] * 12) / 44, rel=1e-6)


def test_a_metric_collection_records_each_of_its_metrics_under_its_key() -> None:
    pred, target = data_of("classes")
    both = torchmetrics.MetricCollection(
        {"f1": classification.MulticlassF1Score(3), "auc": classification.MulticlassAUROC(3)}, prefix="macro_"
    )
    row = seen(pred, target, both)
    assert {name: row[f"valid/{name}"] for name in ("macro_f1", "macro_auc")} == pytest.approx(
        {name: value.item() for name, value in both(pred, target).items()}
    )


def test_rmse_and_r2_are_of_the_whole_set_when_given_as_they_are() -> None:
    pred, target = torch.tensor([[0.0], [0.0], [0.0]]), torch.tensor([[1.0], [1.0], [4.0]])
    row = seen(pred, target, rmse, functools.partial(r2_score), bs=2)
    assert row["valid/rmse"] == pytest.approx(math.sqrt(18 / 3))  # the mean over batches would be (2 * 1 + 4) / 3
    assert row["valid/r2_score"] == pytest.approx(1 - 18 / 6)


@pytest.mark.parametrize("func", [rmse, r2_score, functools.partial(rmse)])
def test_the_average_of_what_is_no_mean_is_refused(func: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"no mean over items: use AccumMetric\("):
        AvgMetric(func)


# --- plain functions against scikit-learn and by hand


def test_regression_functions_agree_with_scikit_learn() -> None:
    pred, target = data_of("values")
    for ours, theirs in [
        (mse, skm.mean_squared_error),
        (mae, skm.mean_absolute_error),
        (rmse, skm.root_mean_squared_error),
        (r2_score, skm.r2_score),
    ]:
        assert ours(pred, target).item() == pytest.approx(theirs(target, pred), rel=1e-5)


@pytest.mark.parametrize(("pred", "value"), [([2.0, 2.0], 1.0), ([2.0, 3.0], 0.0), ([math.nan, 2.0], math.nan)])
def test_r2_of_a_constant_target(pred: list[float], value: float) -> None:
    assert r2_score(torch.tensor(pred), torch.tensor([2.0, 2.0])).item() == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("k", [1, 2])
def test_top_k_accuracy_agrees_with_scikit_learn(k: int) -> None:
    pred, target = data_of("classes")
    assert top_k_accuracy(pred, target, k=k).item() == pytest.approx(skm.top_k_accuracy_score(target, pred, k=k))


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
        (accuracy, (8, 3), (8, 3), "do not match in shape"),
        (accuracy, (8, 1), (8,), "give a score for each class, or use accuracy_multi"),
        (accuracy, (8,), (8,), "give a score for each class, or use accuracy_multi"),
        (top_k_accuracy, (8, 3), (8,), "k=5 for 3 classes"),
        (mse, (8, 3), (3, 8), "do not match in shape"),
        (accuracy_multi, (8, 3), (8,), "do not match in shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(func: Any, pred: tuple[int, ...], target: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        func(torch.zeros(pred), torch.zeros(target))


# --- zero is an option too, unlike in fastai


def test_an_argmax_over_axis_0_is_taken() -> None:
    metric = AccumMetric(lambda pred, target: pred.double().mean(), dim_argmax=0, flatten=False, name="m")
    metric.accumulate(a_batch(torch.tensor([[0.0, 3.0], [1.0, 2.0]]), torch.zeros(2)))
    assert metric.value == torch.tensor([1, 0]).double().mean()


def test_a_threshold_of_0_is_applied() -> None:
    metric = AccumMetric(mean_of, thresh=0.0)
    metric.accumulate(a_batch(torch.tensor([-1.0, 0.0, 2.0, -3.0]), torch.zeros(4)))
    assert metric.value == 0.5


# --- averages: weights, NaN, many batches, dtypes


def test_an_average_is_weighted_by_batch_size() -> None:
    pred = torch.tensor([[0.0], [0.0], [0.0], [8.0]])
    row = seen(pred, torch.zeros(4, 1), AvgMetric(mae), AvgLoss(name="again"), bs=3)
    assert row == {"valid/loss": 2.0, "valid/mae": 2.0, "valid/again": 2.0}


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 2500])
def test_a_weighted_mean_is_exact_over_any_number_of_batches(n: int) -> None:
    mean = WeightedMean()
    for i in range(n):
        mean.add(torch.tensor(i / 8), 1 + i % 7)
    total = math.fsum(i / 8 * (1 + i % 7) for i in range(n))
    assert mean.value is not None
    assert mean.value.item() == total / sum(1 + i % 7 for i in range(n))


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 2500])
def test_a_smoothed_mean_is_right_over_any_number_of_batches(n: int) -> None:
    mean, expected = SmoothMean(0.98), 0.0
    for i in range(n):
        mean.add(torch.tensor(i % 11, dtype=torch.float64))
        expected = 0.98 * expected + 0.02 * (i % 11)
    assert mean.value is not None
    assert mean.value.item() == pytest.approx(expected / (1 - 0.98**n), rel=1e-12)


@pytest.mark.parametrize("position", [0, 500, 1100])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(bad: float, position: int) -> None:
    weighted, smoothed = WeightedMean(), SmoothMean(0.98)
    for i in range(1200):
        value = torch.tensor(bad if i == position else 1.0)
        weighted.add(value, 4)
        smoothed.add(value)
    assert weighted.value is not None
    assert smoothed.value is not None
    assert not math.isfinite(weighted.value.item())
    assert not math.isfinite(smoothed.value.item())


@pytest.mark.parametrize("metric", [AvgMetric(mae), AvgSmoothMetric(mae), AvgSmoothLoss(part="valid"), AccumMetric(mae)])
def test_nan_in_one_batch_makes_the_metric_nan(metric: Metric) -> None:
    pred = torch.tensor([[0.0], [math.nan], [0.0]])
    row = seen(pred, torch.zeros(3, 1), metric, bs=1)
    assert math.isnan(row[f"valid/{metric.name}"])
    assert math.isnan(row["valid/loss"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_loss_of_any_precision_is_averaged_without_overflow(dtype: torch.dtype) -> None:
    metric = AvgLoss()
    for _ in range(1500):
        metric.accumulate(a_batch(None, torch.zeros(64), loss=torch.tensor(96.0, dtype=dtype)))
    assert metric.value is not None
    assert metric.value.item() == 96.0  # 1024 * 64 alone is more than half precision holds


def test_a_loss_of_each_item_is_averaged() -> None:
    metric = AvgLoss()
    metric.accumulate(a_batch(None, torch.zeros(2), loss=torch.tensor([1.0, 3.0])))
    assert metric.value == 2.0


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([torch.tensor(1), torch.tensor(2)], 1.5),
        ([torch.tensor(True), torch.tensor(False)], 0.5),
        ([0.1, 0.3], 0.2),
        ([1, 2], 1.5),
        ([True, False], 0.5),
        ([np.float32(0.5), np.float64(1.5)], 1.0),
        ([torch.tensor([1.0]), torch.tensor([[2.0]])], 1.5),
        ([0.25, torch.tensor(0.75)], 0.5),
    ],
)
def test_a_function_may_return_any_kind_of_number(values: list[Any], mean: float) -> None:
    left = iter(values)
    metric = AvgMetric(lambda pred, target: next(left), name="m")
    for _ in values:
        metric.accumulate(a_batch(torch.zeros(1), torch.zeros(1)))
    assert metric.value is not None
    assert metric.value.item() == pytest.approx(mean, abs=1e-16)


def test_a_metric_that_saw_nothing_has_no_value() -> None:
    for metric in (AvgLoss(), AvgMetric(mae), AvgSmoothLoss(), AvgSmoothMetric(mae), AccumMetric(mae)):
        assert metric.value is None


def test_bfloat16_predictions_reach_numpy_functions() -> None:
    pred, target = data_of("values")
    metric = skm_to_fastai(skm.mean_absolute_error, is_class=False)
    metric.accumulate(a_batch(pred.bfloat16(), target))
    assert metric.value == pytest.approx(skm.mean_absolute_error(target, pred.bfloat16().float()))


# --- several labels, no labels, several outputs


def weighted_error(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((pred - target).abs() * weight).sum() / weight.sum()


@pytest.mark.parametrize("metric", [weighted_error, AccumMetric(weighted_error)])
def test_a_function_gets_every_label_of_a_batch(metric: Any) -> None:
    x, y, w = torch.tensor([[1.0], [2.0], [6.0]]), torch.zeros(3, 1), torch.tensor([[1.0], [0.0], [3.0]])
    dls = SimpleNamespace(train=[], valid=[(x, y, w)], n_inp=1)
    learn = Learner(nn.Identity(), dls, lambda pred, y, w: pred.mean(), metrics=[metric], device="cpu")
    assert learn.validate()["valid/weighted_error"] == (1 + 18) / 4


@pytest.mark.parametrize("metric", [mse, AccumMetric(mse)])
def test_without_labels_the_inputs_are_the_target(metric: Any) -> None:
    learn = Learner(nn.Flatten(), Lists([], [torch.ones(4, 2)]), nn.functional.mse_loss, metrics=[metric], device="cpu")
    assert learn.validate()["valid/mse"] == 0.0


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


def test_a_function_gets_all_outputs_of_a_model_but_an_accumulating_metric_refuses_them() -> None:
    def second(pred: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return pred[1].mean()

    options: dict[str, Any] = {"loss_func": lambda pred, y: pred[0].mean(), "device": "cpu"}
    dls = Lists([], [(torch.ones(2, 1), torch.ones(2, 1))])
    assert Learner(Two(), dls, metrics=[second], **options).validate()["valid/second"] == 2.0
    with pytest.raises(TypeError, match="'second' keeps predictions and labels that are tensors but got tuple, Tensor"):
        Learner(Two(), dls, metrics=[AccumMetric(second)], **options).validate()


# --- what is recorded in a fit, and under which name


@pytest.mark.parametrize("part", ["train", "valid", "both"])
@pytest.mark.parametrize("make", [AvgMetric, AvgSmoothMetric, AccumMetric])
def test_a_metric_is_recorded_on_its_part_only(make: Any, part: str) -> None:
    learn = toy_learner(metrics=[make(mae, name="m", part=part)])
    learn.fit(2)
    parts = ["train", "valid"] if part == "both" else [part]
    recorded = [name for name in learn.recorder.metric_names if name.endswith("/m")]
    assert recorded == [f"{name}/m" for name in parts]
    assert all(set(row) == set(learn.recorder.metric_names) for row in learn.recorder.rows)


def test_a_fit_records_each_kind_of_metric_by_default_where_it_says() -> None:
    learn = toy_learner(metrics=[mae, rmse, regression.MeanSquaredError(), AvgSmoothLoss(), lambda pred, target: pred.mean()])
    learn.fit(1)
    assert [name for name in learn.recorder.metric_names if not name.startswith(("time/", "epoch"))] == [
        *("train/loss", "train/mae", "train/loss_smooth", "train/lambda"),
        *("valid/loss", "valid/mae", "valid/rmse", "valid/mean_squared_error", "valid/lambda"),
    ]


def test_metrics_in_training_are_of_the_predictions_before_each_step() -> None:
    learn = toy_learner(metrics=[mse, AccumMetric(mse, name="accum", part="train")])
    learn.fit(1)
    row = learn.recorder.row
    assert row["train/mse"] == pytest.approx(row["train/loss"], rel=1e-6)
    assert row["train/accum"] == pytest.approx(row["train/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (accuracy, "accuracy"),
        (functools.partial(functools.partial(top_k_accuracy, k=2), axis=1), "top_k_accuracy"),
        (lambda pred, target: 0, "lambda"),
        (classification.MulticlassAUROC(3), "multiclass_auroc"),
        (classification.MulticlassF1Score(3), "multiclass_f1_score"),
        (nn.L1Loss(), "l1_loss"),
        (torch.nn.functional.mse_loss, "mse_loss"),
    ],
)
def test_a_metric_has_the_name_of_its_function_in_snake_case(func: Any, name: str) -> None:
    assert func_name(func) == as_metric(func).name == name


NAMES = ["f1", "f1 macro", "f1/macro", "a.b-c_d:e", "F1 (macro)", "acc%", "a//b", "/a", "a/", "./a", "a/../b", "", "a,b", "é"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_refused_where_mlflow_refuses_it(name: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_metric_name

    def refuses(name: str) -> bool:
        try:
            _validate_metric_name(f"valid/{name}")  # type: ignore[no-untyped-call]
        except MlflowException:
            return True
        return False

    metric = AvgLoss(name="fine")
    if refuses(name):
        with pytest.raises(ValueError, match="rename it, for example to '") as caught:
            metric.name = name
        suggestion = str(caught.value).split("'")[-2]
        assert not refuses(suggestion)
        metric.name = suggestion
    else:
        metric.name = name
        assert metric.name == name


def test_a_bad_name_is_refused_at_creation() -> None:
    with pytest.raises(ValueError, match=r"'F1 \(macro\)' must be of letters, .*: rename it, for example to 'F1_macro'\."):
        AvgMetric(accuracy, name="F1 (macro)")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([mae, mae], r"'mae' has the name of another metric, so both would be recorded as 'train/mae': .* name=\."),
        ([AccumMetric(mae), mae], "both would be recorded as 'valid/mae'"),
        ([AvgLoss()], "'loss' has the name of the loss itself, which is always recorded"),
    ],
)
def test_two_metrics_of_one_name_are_refused(metrics: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_learner(metrics=metrics)


def test_one_name_may_stand_for_two_metrics_of_different_parts() -> None:
    learn = toy_learner(metrics=[AvgSmoothMetric(mae, name="m", part="train"), AccumMetric(mae, name="m")])
    learn.fit(1)
    assert {"train/m", "valid/m"} <= set(learn.recorder.row)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([AvgLoss], r"AvgLoss is a class, not a metric: give an instance of it, AvgLoss\(\.\.\.\)"),
        ([classification.MulticlassAUROC], "MulticlassAUROC is a class"),
        (["accuracy"], "'accuracy' is no metric: give a function"),
        (accuracy, r"must be a list of metrics, such as \[accuracy\], but is a function"),
        ("accuracy", r"must be a list of metrics, such as \[accuracy\], but is a str"),
        ({"accuracy": accuracy}, "but is a dict"),
        (torchmetrics.MetricCollection([]), "but is a MetricCollection"),
    ],
)
def test_what_is_no_metric_is_refused(metrics: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        toy_learner(metrics=metrics)


def test_a_collection_is_no_single_metric() -> None:
    with pytest.raises(TypeError, match="is several metrics"):
        as_metric(torchmetrics.MetricCollection([]))


@pytest.mark.parametrize("options", [{"part": "test"}, {"activation": "relu"}])
def test_an_unknown_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be ('train', 'valid' or 'both'|one of no, softmax, sigmoid, binary_softmax)"):
        AccumMetric(accuracy, **options)


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_a_beta_outside_0_to_1_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be at least 0 and less than 1"):
        AvgSmoothLoss(beta)


# --- what is not one number


@pytest.mark.parametrize(
    ("metric", "got"),
    [
        (AvgMetric(lambda pred, target: pred, name="m"), r"tensor \(16, 3\)"),
        (AccumMetric(classification.MulticlassConfusionMatrix(3), flatten=False, name="m"), r"tensor \(3, 3\)"),
        (AvgMetric(lambda pred, target: {"a": 1.0}, name="m"), "dict"),
        (AccumMetric(lambda pred, target: None, flatten=False, name="m"), "NoneType"),
        (skm_to_fastai(skm.confusion_matrix, name="m"), "ndarray"),
        (AccumMetric(torchmetrics.MetricCollection([classification.MulticlassF1Score(3)]), flatten=False, name="m"), "dict"),
    ],
)
def test_a_metric_that_is_not_one_number_is_refused_by_name(metric: Metric, got: str) -> None:
    with pytest.raises(ValueError, match=f"'m' gave a {got}: a metric must be one number"):
        seen(*data_of("classes"), metric)


def test_predictions_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="'f1_score' has 132 predictions for 44 labels: set dim_argmax, or flatten=False"):
        seen(*data_of("classes"), skm_to_fastai(skm.f1_score, is_class=False))


@pytest.mark.parametrize(
    ("metric", "shapes"),
    [
        (nn.functional.cross_entropy, r"float32 \(16, 2\) and int64 \(16,\)"),
        (skm_to_fastai(skm.f1_score, name="cross_entropy"), r"int64 \(44,\) and int64 \(44,\)"),
    ],
)
def test_an_error_in_a_function_keeps_its_type_and_says_which_metric_and_what_it_was_given(metric: Any, shapes: str) -> None:
    _, target = data_of("classes")  # class 2 of two classes; the default of f1_score is for two classes only
    with pytest.raises((IndexError, ValueError)) as caught:
        seen(torch.zeros(44, 2), target, metric)
    notes = "\n".join(caught.value.__notes__)
    assert "metric 'cross_entropy' was given" in notes
    assert re.search(shapes, notes)


# --- losses of several parts


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
        ("mae", torch.tensor(0.0), "'mae' of the loss has the name of another metric: rename one"),
        ("loss", torch.tensor(0.0), "'loss' of the loss has the name of the loss itself"),
        ("kl (nats)", torch.tensor(0.0), "rename it, for example to 'kl_nats'"),
    ],
)
def test_a_part_of_the_loss_with_a_bad_name_is_refused(part: str, value: Tensor, message: str) -> None:
    learn = toy_learner(loss_func=parts_loss(**{part: value}), metrics=[AvgMetric(mae, part="valid")])
    with pytest.raises(ValueError, match=message):
        learn.fit(1)


def test_a_part_of_the_loss_that_is_not_one_number_is_refused() -> None:
    learn = toy_learner(loss_func=lambda pred, target: {"each": (pred - target)[:, 0].square()})
    with pytest.raises(ValueError, match=r"'each' of the loss is a tensor \(8,\)"):
        learn.fit(1)


# --- reads, memory, checkpoints


@pytest.mark.parametrize(
    "metrics",
    [
        [accuracy, error_rate, functools.partial(top_k_accuracy, k=2), AvgSmoothMetric(accuracy), AvgSmoothLoss()],
        [AccumMetric(multiclass_accuracy, part="both", flatten=False, num_classes=3, validate_args=False)],
        [skm_to_fastai(skm.f1_score, average="macro", part="both")],
        [classification.MulticlassAUROC(3, validate_args=False)],
    ],
)
def test_no_metric_reads_the_device_per_batch(metrics: list[Any]) -> None:
    def reads(n: int) -> int:
        pred, target = torch.randn(n * 8, 3), torch.arange(n * 8) % 3
        learn = Learner(
            nn.Linear(3, 3), Lists(batches(pred, target, 8), batches(pred, target, 8)), nn.CrossEntropyLoss(), device="cpu"
        )
        learn.metrics = [as_metric(metric) for metric in metrics]
        with counted_reads() as counter:
            learn.fit(1)
        return counter.n

    assert reads(10) == reads(20)


def test_a_regression_metric_reads_nothing_per_batch() -> None:
    def reads(n: int) -> int:
        x = torch.randn(n * 8, 1)
        learn = toy_learner(Lists(batches(x, x, 8), batches(x, x, 8)), metrics=[mse, mae, rmse, r2_score])
        with counted_reads() as counter:
            learn.fit(1)
        return counter.n

    assert reads(10) == reads(20)


def kept_batches(metric: AccumMetric) -> int:
    return len(metric.state_dict()["batches"])


def test_predictions_are_kept_for_their_part_of_the_epoch_only() -> None:
    counts: list[tuple[str, int]] = []

    class Count(Callback):
        order = 60

        def after_batch(self, learn: Learner) -> None:
            counts.append(("train" if learn.training else "valid", kept_batches(metric)))

        def after_validate(self, learn: Learner) -> None:
            counts.append(("end", kept_batches(metric)))

    metric = AccumMetric(mae)
    x = torch.randn(6, 1)
    toy_learner(Lists(batches(x, x, 3), batches(x, x, 2)), metrics=[metric], cbs=[Count()]).fit(2)
    assert counts == [("train", 0), ("train", 0), ("valid", 1), ("valid", 2), ("valid", 3), ("end", 0)] * 2


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
def test_a_metric_resumed_within_an_epoch_gives_the_same_bits(index: int, cut: int, tmp_path: Path) -> None:
    whole, first, second = (made_metrics()[index] for _ in range(3))
    feed(whole, 0, 2100)
    feed(first, 0, cut)
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    feed(second, cut, 2100)
    assert torch.equal(torch.as_tensor(second.value), torch.as_tensor(whole.value))
    feed(first, cut, 2100)
    assert torch.equal(torch.as_tensor(first.value), torch.as_tensor(whole.value))  # saving changed nothing


def test_what_the_recorder_holds_between_parts_can_be_saved_when_scikit_learn_made_it(tmp_path: Path) -> None:
    class Save(Callback):
        order = 80

        def after_train(self, learn: Learner) -> None:
            torch.save(learn.recorder.state_dict(), tmp_path / "state")

    metric = skm_to_fastai(skm.r2_score, is_class=False, part="train")
    toy_learner(metrics=[metric], cbs=[Save()]).fit(1)
    assert "train/r2_score" in torch.load(tmp_path / "state", weights_only=True)["pending"]


# --- the page


def test_the_examples_of_the_page_give_what_it_says() -> None:
    path = TESTS.parent / "docs/metrics.md"
    page = doctest.DocTestParser().get_doctest(path.read_text(), {}, path.name, str(path), 0)
    assert len(page.examples) > 10
    assert doctest.DocTestRunner().run(page).failed == 0
