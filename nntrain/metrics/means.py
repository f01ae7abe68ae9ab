"""Running means of scalar tensors, computed on their device."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from nntrain.core.batch import to_device

_FOLD = 1024


class WeightedMean:
    """Weighted mean of scalar tensors that stay on their device.

    Adding a value appends to two lists and does not synchronize with the device. If any value is
    NaN, the mean is NaN. Values are summed in groups of 1024, so memory use does not grow with the
    length of the epoch. The sum uses double precision, or single precision if the device does not
    support double precision.
    """

    beta: float = 1.0
    """The factor by which each new value reduces the weights of all earlier values."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Removes all values."""
        self._total: Tensor | None = None
        self._weight = 0.0
        self._values: list[Tensor] = []
        self._weights: list[float] = []

    def add(self, value: Tensor, weight: float = 1.0) -> None:
        """Adds a scalar tensor with a weight, which is usually the batch size."""
        self._values.append(value)
        self._weights.append(weight)
        self._weight = self.beta * self._weight + weight
        if len(self._values) == _FOLD:
            self._total, self._values, self._weights = self._sum(), [], []

    def _sum(self) -> Tensor | None:
        if not self._values:
            return self._total
        values = _column(self._values)
        recent = (values * self._weights_like(values)).sum()
        return (
            recent
            if self._total is None
            else self._total.to(recent) * self.beta ** len(self._values) + recent
        )

    def _weights_like(self, values: Tensor) -> Tensor:
        # Create the tensors on the CPU, even if the default device is different, and copy them
        # without blocking.
        weights = torch.tensor(self._weights, dtype=values.dtype, device="cpu")
        age = torch.arange(len(weights) - 1, -1, -1, dtype=values.dtype, device="cpu")
        return cast(Tensor, to_device(weights * self.beta**age, values.device))

    @property
    def value(self) -> Tensor | None:
        """Mean, on the device of the newest value; `None` before the first value."""
        total = self._sum()
        return None if total is None else total / self._weight

    def state_dict(self) -> dict[str, Any]:
        """Returns the sum so far and, separately, the values that are not yet included in the sum.

        A resumed run then sums in the same order and rounds in the same way as an uninterrupted
        run.
        """
        recent = _column(self._values) if self._values else torch.empty(0)
        return {
            "total": self._total,
            "weight": self._weight,
            "recent": recent,
            "recent_weights": list(self._weights),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self._total, self._weight = state["total"], state["weight"]
        self._values, self._weights = list(state["recent"].unbind()), list(state["recent_weights"])


class SmoothMean(WeightedMean):
    """Exponential moving average of scalar tensors, with the bias correction of Adam.

    The result equals fastai's `AvgSmoothLoss`. Source: Kingma and Ba, 2015,
    https://arxiv.org/abs/1412.6980, section 3; dividing by the sum of the weights is equivalent to
    the bias correction in the paper.

    Raises:
        ValueError: if the smoothing factor `beta` is not in [0, 1).
    """

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta} must be at least 0 and less than 1.")
        super().__init__()
        self.beta = beta


def _column(values: Sequence[Tensor]) -> Tensor:
    # Values restored from a checkpoint, and values that were Python numbers, may be on a different
    # device than the newest value.
    device = values[-1].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack(
        [value if value.device == device else value.to(device, dtype) for value in values]
    ).to(dtype)
