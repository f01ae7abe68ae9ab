"""Histograms of activations, in bins of fixed edges that suit values of any size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

N_BINS = 81
"""Bins of a histogram of activations; the middle one, index 40, is for what is nearly 0."""

_LINEAR = 0.01
_LIMIT = 12.0


def signed_log(values: Tensor) -> Tensor:
    """`sign(x) * log(1 + |x| / 0.01)`: even steps for values near 0, even ratios for large ones, of either sign."""
    return values.abs().div_(_LINEAR).log1p_().copysign_(values)


def histogram_edges() -> Tensor:
    """The edges of the histograms' bins `(82,)`, float64, in the activation's own unit.

    They are evenly spaced on the scale of `signed_log` from -12 to 12, so that a bin is a third wider than its neighbour
    nearer 0; the middle one reaches from -0.0016 to 0.0016, the outermost edges are -1628 and 1628. What lies beyond them
    is counted in the outermost bins; a NaN is counted nowhere.
    """
    scaled = torch.linspace(-_LIMIT, _LIMIT, N_BINS + 1, dtype=torch.float64)
    return torch.copysign(torch.expm1(scaled.abs()) * _LINEAR, scaled)


def bin_positions(values: Tensor) -> Tensor:
    """Where values lie on the axis of a histogram's bins, from 0 (the first edge) to 81 (the last)."""
    return (signed_log(values).clamp(-_LIMIT, _LIMIT) / _LIMIT + 1) * N_BINS / 2


@contextmanager
def _order_does_not_matter() -> Iterator[None]:
    """Lets torch.histc run on CUDA where deterministic algorithms are asked for: counting by ones is exact in any order."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def histograms(values: Tensor) -> Tensor:
    """The histogram of each row of values `(rows, n)`, float32: `(rows, 81)`."""
    scaled = signed_log(values).clamp_(-_LIMIT, _LIMIT)
    with _order_does_not_matter():
        return torch.stack([torch.histc(row, N_BINS, -_LIMIT, _LIMIT) for row in scaled])


def histogram(values: Tensor) -> Tensor:
    """How many values lie in each bin of `histogram_edges`: `(81,)`, float32, on the values' device."""
    return histograms(values.float().reshape(1, -1))[0]
