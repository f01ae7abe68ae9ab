import functools
import re
from types import SimpleNamespace
from typing import Any

import pytest
import sklearn.metrics as skm
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics import classification

from nntrain import Learner
from nntrain.metrics import (
    AccumMetric,
    AvgMetric,
    Metric,
    accuracy,
    as_metric,
    func_name,
    mse,
    skm_to_fastai,
    top_k_accuracy,
)
from tests.common.metrics import data_of, seen
from tests.common.toys import Lists


def weighted_error(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((pred - target).abs() * weight).sum() / weight.sum()


@pytest.mark.parametrize("metric", [weighted_error, AccumMetric(weighted_error)])
def test_a_function_gets_every_label_of_a_batch(metric: Any) -> None:
    x, y, w = (
        torch.tensor([[1.0], [2.0], [6.0]]),
        torch.zeros(3, 1),
        torch.tensor([[1.0], [0.0], [3.0]]),
    )
    dls = SimpleNamespace(train=[], valid=[(x, y, w)], n_inp=1)
    learn = Learner(
        nn.Identity(), dls, lambda pred, y, w: pred.mean(), metrics=[metric], device="cpu"
    )
    assert learn.validate()["valid/weighted_error"] == (1 + 18) / 4


@pytest.mark.parametrize("metric", [mse, AccumMetric(mse)])
def test_without_labels_the_inputs_are_the_target(metric: Any) -> None:
    learn = Learner(
        nn.Flatten(),
        Lists([], [torch.ones(4, 2)]),
        nn.functional.mse_loss,
        metrics=[metric],
        device="cpu",
    )
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
    with pytest.raises(
        TypeError,
        match="'second' needs tensors as predictions and labels, but got tuple, Tensor",
    ):
        Learner(Two(), dls, metrics=[AccumMetric(second)], **options).validate()


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


@pytest.mark.parametrize(
    ("metric", "got"),
    [
        (AvgMetric(lambda pred, target: pred, name="m"), r"tensor \(16, 3\)"),
        (
            AccumMetric(classification.MulticlassConfusionMatrix(3), flatten=False, name="m"),
            r"tensor \(3, 3\)",
        ),
        (AvgMetric(lambda pred, target: {"a": 1.0}, name="m"), "dict"),
        (AccumMetric(lambda pred, target: None, flatten=False, name="m"), "NoneType"),
        (skm_to_fastai(skm.confusion_matrix, name="m"), "ndarray"),
        (
            AccumMetric(
                torchmetrics.MetricCollection([classification.MulticlassF1Score(3)]),
                flatten=False,
                name="m",
            ),
            "dict",
        ),
    ],
)
def test_a_metric_that_is_not_one_number_is_refused_by_name(metric: Metric, got: str) -> None:
    with pytest.raises(ValueError, match=f"'m' returned a {got} but must return one number"):
        seen(*data_of("classes"), metric)


@pytest.mark.parametrize(
    ("metric", "shapes"),
    [
        (nn.functional.cross_entropy, r"float32 \(16, 2\) and int64 \(16,\)"),
        (skm_to_fastai(skm.f1_score, name="cross_entropy"), r"int64 \(44,\) and int64 \(44,\)"),
    ],
)
def test_an_error_in_a_function_keeps_its_type_and_names_the_metric_and_its_arguments(
    metric: Any, shapes: str
) -> None:
    # Label 2 is out of range for two classes, and f1_score expects two classes by default.
    _, target = data_of("classes")
    with pytest.raises((IndexError, ValueError)) as caught:
        seen(torch.zeros(44, 2), target, metric)
    notes = "\n".join(caught.value.__notes__)
    assert "metric 'cross_entropy' was called with" in notes
    assert re.search(shapes, notes)
