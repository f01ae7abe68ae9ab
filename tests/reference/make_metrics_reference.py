"""Computes the values of fastai's metrics for a comparison; writes metrics.json.

Run this script in an environment without nntrain: `pip install torch==2.13.0 "fastai==2.8.*"`. The
predictions are the inputs of an identity model, so a real `Learner.validate` sees them in batches;
the last batch is smaller. The file also contains the predictions and labels, rounded to three
decimals, so that both libraries start from the same numbers.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import sklearn.metrics as skm
import torch
from fastai.data.core import DataLoaders
from fastai.learner import AvgLoss, AvgMetric, AvgSmoothLoss, Learner
from fastai.metrics import (
    AccumMetric,
    ActivationType,
    R2Score,
    accuracy,
    accuracy_multi,
    error_rate,
    mae,
    mse,
    rmse,
    skm_to_fastai,
    top_k_accuracy,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

N, BATCH_SIZE = 44, 16


def mean_of(pred: Tensor, target: Tensor) -> Tensor:
    return pred.double().mean()


def mean_product(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.double() * target).mean()


def mean_power(pred: Tensor, target: Tensor, power: float) -> Tensor:
    return (pred.double().abs() ** power).mean()


def difference(first: Any, second: Any) -> float:
    return float((first * range(len(first))).sum() - second.sum())


CLASSES: dict[str, Any] = {
    "accuracy": accuracy,
    "accuracy_avg": AvgMetric(accuracy),
    "error_rate": error_rate,
    "top_2_accuracy": partial(top_k_accuracy, k=2),
    "argmax": AccumMetric(mean_product, dim_argmax=1),
    "argmax_last": AccumMetric(mean_product, dim_argmax=-1),
    "softmax": AccumMetric(
        mean_power, dim_argmax=1, activation=ActivationType.Softmax, flatten=False, power=2
    ),
    "softmax_thresh": AccumMetric(
        mean_of, dim_argmax=1, activation=ActivationType.Softmax, flatten=False, thresh=0.4
    ),
    "argmax_thresh": AccumMetric(mean_of, dim_argmax=1, thresh=0.5),
    "no_flatten": AccumMetric(mean_power, flatten=False, power=3),
    "to_np_invert": AccumMetric(difference, dim_argmax=1, to_np=True, invert_arg=True),
    "to_np": AccumMetric(difference, dim_argmax=1, to_np=True),
    "f1_macro": skm_to_fastai(skm.f1_score, average="macro"),
    "precision_weighted": skm_to_fastai(skm.precision_score, average="weighted"),
    "cohen_kappa": skm_to_fastai(skm.cohen_kappa_score, weights="quadratic"),
    "roc_auc_ovr": skm_to_fastai(
        skm.roc_auc_score, activation=ActivationType.Softmax, flatten=False, multi_class="ovr"
    ),
}
BINARY: dict[str, Any] = {
    "binary_softmax": AccumMetric(
        mean_product, dim_argmax=1, activation=ActivationType.BinarySoftmax
    ),
    "binary_softmax_thresh": AccumMetric(
        mean_product, dim_argmax=1, activation=ActivationType.BinarySoftmax, thresh=0.3
    ),
    "roc_auc": skm_to_fastai(skm.roc_auc_score, activation=ActivationType.BinarySoftmax),
    "f1": skm_to_fastai(skm.f1_score),
}
LABELS: dict[str, Any] = {
    "accuracy_multi": partial(accuracy_multi, thresh=0.6),
    "accuracy_multi_no_sigmoid": partial(accuracy_multi, thresh=0.1, sigmoid=False),
    "sigmoid": AccumMetric(mean_product, activation=ActivationType.Sigmoid),
    "sigmoid_thresh": AccumMetric(mean_product, activation=ActivationType.Sigmoid, thresh=0.7),
    "thresh": AccumMetric(mean_product, thresh=0.25),
    "f1_multi": skm_to_fastai(skm.f1_score, thresh=0.5, flatten=False, average="macro"),
    "accuracy_set": skm_to_fastai(skm.accuracy_score, thresh=0.5, flatten=False),
    "roc_auc_multi": skm_to_fastai(
        skm.roc_auc_score,
        activation=ActivationType.Sigmoid,
        thresh=None,
        is_class=False,
        flatten=False,
    ),
}
VALUES: dict[str, Any] = {
    "mse": mse,
    "mae": mae,
    "rmse": rmse,
    "r2": R2Score(),
    "explained_variance": skm_to_fastai(skm.explained_variance_score, is_class=False),
    "avg_loss": AvgLoss(),
}
SETS = {"classes": CLASSES, "binary": BINARY, "labels": LABELS, "values": VALUES}


def rounded(tensor: Tensor) -> list[Any]:
    return [[round(x, 3) for x in row] for row in tensor.tolist()]


def classes(n: int, gen: torch.Generator) -> dict[str, Any]:
    target = torch.randint(0, n, (N,), generator=gen)
    scores = torch.randn(N, n, generator=gen) + 1.2 * nn.functional.one_hot(target, n)
    return {"pred": rounded(scores), "target": target.tolist()}


def make_data() -> dict[str, dict[str, Any]]:
    gen = torch.Generator().manual_seed(3)
    value = torch.randn(N, 1, generator=gen)
    return {
        "classes": classes(3, gen),
        "binary": classes(2, gen),
        "labels": {
            "pred": rounded(torch.randn(N, 4, generator=gen)),
            "target": torch.randint(0, 2, (N, 4), generator=gen).tolist(),
        },
        "values": {
            "pred": rounded(value),
            "target": rounded(value + torch.randn(N, 1, generator=gen)),
        },
    }


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))  # fastai reads the device from a parameter

    def forward(self, x: Tensor) -> Tensor:
        return x


def loaders(pred: Any, target: Any) -> DataLoaders:
    loader = DataLoader(TensorDataset(torch.tensor(pred), torch.tensor(target)), BATCH_SIZE)
    return DataLoaders(loader, loader)


def loss_of(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.flatten(1)[:, 0] - target.float().reshape(len(target), -1)[:, 0]).abs().mean()


def values_of(metrics: dict[str, Any], pred: Any, target: Any) -> dict[str, float]:
    learn = Learner(
        loaders(pred, target), Same(), loss_func=loss_of, metrics=list(metrics.values())
    )
    with learn.no_logging():
        loss, *values = learn.validate()
    return {"loss": float(loss)} | {
        name: float(value) for name, value in zip(metrics, values, strict=True)
    }


def smooth_losses(losses: list[float], beta: float) -> list[float]:
    class Batch:
        loss = torch.tensor(0.0)

    metric, batch, values = AvgSmoothLoss(beta=beta), Batch(), []
    for loss in losses:
        batch.loss = torch.tensor(loss)
        metric.accumulate(batch)
        values.append(float(metric.value))
    return values


def main() -> None:
    data = make_data()
    values = {name: values_of(metrics, **data[name]) for name, metrics in SETS.items()}
    losses = [round(abs(x[0]), 3) for x in data["values"]["pred"]]
    smooth = {str(beta): smooth_losses(losses, beta) for beta in (0.98, 0.5, 0.0)}
    result = {
        "batch_size": BATCH_SIZE,
        "data": data,
        "values": values,
        "losses": losses,
        "smooth": smooth,
    }
    Path(__file__).with_name("metrics.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
