"""Exponential smoothing, as in fastai."""

from __future__ import annotations

import torch
from torch import Tensor


class Smoother:
    """An exponentially weighted mean with bias correction, as in fastai's `AvgSmoothLoss`."""

    def __init__(self, beta: float = 0.98) -> None:
        self.beta = beta
        self._mean, self._count = 0.0, 0

    def add(self, value: float) -> float:
        """Adds a number and returns the mean so far. The mean after an infinite value is NaN."""
        # same formula as torch.lerp, so that infinite values have the same effect
        self._mean += (value - self._mean) * (1 - self.beta)
        self._count += 1
        return self._mean / (1 - self.beta**self._count)


def smooth(values: Tensor, beta: float = 0.98) -> Tensor:
    """Returns the exponentially weighted means `(n,)` of a series `(n,)`, with bias correction."""
    smoother = Smoother(beta)
    return torch.tensor([smoother.add(value) for value in values.tolist()])
