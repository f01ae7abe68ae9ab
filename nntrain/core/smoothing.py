"""Exponentially weighted means of numbers on the host."""

from __future__ import annotations

import torch
from torch import Tensor


class Smoother:
    """A debiased exponentially weighted mean of numbers; the value is fastai's `AvgSmoothLoss`."""

    def __init__(self, beta: float = 0.98) -> None:
        self.beta = beta
        self._mean, self._count = 0.0, 0

    def add(self, value: float) -> float:
        """Adds a number and returns the mean so far; after an infinity the mean is NaN."""
        # the formula of torch.lerp, so that infinities give what they give there
        self._mean += (value - self._mean) * (1 - self.beta)
        self._count += 1
        return self._mean / (1 - self.beta**self._count)


def smooth(values: Tensor, beta: float = 0.98) -> Tensor:
    """Returns the debiased exponentially weighted mean `(n,)` after each of the values `(n,)`."""
    smoother = Smoother(beta)
    return torch.tensor([smoother.add(value) for value in values.tolist()])
