"""Running means of scalars that stay on their device."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from nntrain.core.batch import to_device

_FOLD = 1024


class WeightedMean:
    """A weighted mean of scalar tensors that stay on their device.

    Adding a value costs two list appends and reads nothing from the device. NaN stays NaN. Values
    are summed in double precision (single if the device lacks it), in groups of 1024, so the memory
    does not grow with the epoch.
    """

    beta: float = 1.0
    """The factor that each new value applies to the weight of all earlier ones."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all values."""
        self._total: Tensor | None = None
        self._weight = 0.0
        self._values: list[Tensor] = []
        self._weights: list[float] = []

    def add(self, value: Tensor, weight: float = 1.0) -> None:
        """Adds a scalar with its weight, usually the batch size."""
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
        # Made on the CPU, whatever the default device is, and copied without blocking.
        weights = torch.tensor(self._weights, dtype=values.dtype, device="cpu")
        age = torch.arange(len(weights) - 1, -1, -1, dtype=values.dtype, device="cpu")
        return cast(Tensor, to_device(weights * self.beta**age, values.device))

    @property
    def value(self) -> Tensor | None:
        """The mean, on the device of the newest value; `None` before a value is added."""
        total = self._sum()
        return None if total is None else total / self._weight

    def state_dict(self) -> dict[str, Any]:
        """Returns the total and, separately, the values that are not yet part of it.

        A resumed sum is then rounded in the same way as an uninterrupted one.
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
    """An exponentially weighted mean of scalar tensors, with the bias corrected as in Adam.

    The value equals that of fastai's `AvgSmoothLoss`. Source: Kingma and Ba, 2015,
    https://arxiv.org/abs/1412.6980, section 3; dividing by the sum of the weights is equivalent to
    their bias correction.

    Raises:
        ValueError: if `beta`, the weight of the past, is not at least 0 and less than 1.
    """

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta} must be at least 0 and less than 1.")
        super().__init__()
        self.beta = beta


def _column(values: Sequence[Tensor]) -> Tensor:
    # Values from a checkpoint, or Python numbers, may be on another device than the newest value.
    device = values[-1].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack(
        [value if value.device == device else value.to(device, dtype) for value in values]
    ).to(dtype)
