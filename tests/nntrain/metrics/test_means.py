import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from nntrain.metrics import SmoothMean, WeightedMean
from tests.common.spies import NoDoubles


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
def test_values_that_are_not_finite_stay_so(bad: float, position: int) -> None:
    weighted, smoothed = WeightedMean(), SmoothMean(0.98)
    for i in range(1200):
        value = torch.tensor(bad if i == position else 1.0)
        weighted.add(value, 4)
        smoothed.add(value)
    assert weighted.value is not None
    assert smoothed.value is not None
    assert not math.isfinite(weighted.value.item())
    assert not math.isfinite(smoothed.value.item())


def ones_on(device: str, mean: WeightedMean, n: int) -> Tensor:
    for _ in range(n):
        mean.add(torch.ones((), device=device), 8)
    assert mean.value is not None
    return mean.value


@pytest.mark.parametrize("make", [WeightedMean, lambda: SmoothMean(0.98)])
@pytest.mark.parametrize(
    ("device", "dtype"), [("mps", torch.float32), ("cuda", torch.float64), ("cpu", torch.float64)]
)
def test_a_mean_is_as_precise_as_its_device_allows_and_stays_on_it(
    device: str, dtype: torch.dtype, make: Callable[[], WeightedMean]
) -> None:
    with FakeTensorMode(), NoDoubles():
        value = ones_on(device, make(), 1030)
    assert (value.device.type, value.dtype) == (device, dtype)


@pytest.mark.parametrize("cut", [10, 1030])
@pytest.mark.parametrize("make", [WeightedMean, lambda: SmoothMean(0.98)])
@pytest.mark.parametrize(("device", "dtype"), [("mps", torch.float32), ("cuda", torch.float64)])
def test_a_mean_saved_on_the_cpu_continues_on_the_device_of_new_values(
    device: str, dtype: torch.dtype, make: Callable[[], WeightedMean], cut: int
) -> None:
    with FakeTensorMode(), NoDoubles():
        saved, resumed = make(), make()
        ones_on("cpu", saved, cut)
        resumed.load_state_dict(saved.state_dict())
        value = ones_on(device, resumed, 1030)
    assert (value.device.type, value.dtype) == (device, dtype)
