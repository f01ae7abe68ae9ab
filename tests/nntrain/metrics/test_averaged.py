import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from nntrain.metrics import AvgLoss, AvgMetric, AvgSmoothLoss, mae, r2_score, rmse
from tests.common.metrics import a_batch, seen
from tests.common.spies import NoDoubles


def test_an_average_is_weighted_by_batch_size() -> None:
    pred = torch.tensor([[0.0], [0.0], [0.0], [8.0]])
    row = seen(pred, torch.zeros(4, 1), AvgMetric(mae), AvgLoss(name="again"), bs=3)
    assert row == {"valid/loss": 2.0, "valid/mae": 2.0, "valid/again": 2.0}


@pytest.mark.parametrize("func", [rmse, r2_score, functools.partial(rmse)])
def test_an_average_of_rmse_or_r2_is_refused(func: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"not a mean over items: use AccumMetric\("):
        AvgMetric(func)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_loss_of_any_precision_is_averaged_without_overflow(dtype: torch.dtype) -> None:
    metric = AvgLoss()
    for _ in range(1500):
        metric.accumulate(a_batch(None, torch.zeros(64), loss=torch.tensor(96.0, dtype=dtype)))
    assert metric.value is not None
    assert metric.value.item() == 96.0  # 1500 * 64 items overflow half precision


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


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_a_beta_outside_0_to_1_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta=.* must be at least 0 and less than 1"):
        AvgSmoothLoss(beta)


def test_a_function_may_give_a_number_for_one_batch_and_a_tensor_on_mps_for_the_next() -> None:
    metric = AvgMetric(lambda pred, target: 0.25 if len(pred) == 1 else pred.mean(), name="m")
    with FakeTensorMode(), NoDoubles():
        metric.accumulate(a_batch(torch.zeros(1, device="mps"), torch.zeros(1)))
        metric.accumulate(a_batch(torch.zeros(2, device="mps"), torch.zeros(2)))
        assert metric.value is not None
        assert (metric.value.device.type, metric.value.dtype) == ("mps", torch.float32)
