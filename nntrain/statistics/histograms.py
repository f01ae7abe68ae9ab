"""Histograms of activations, with fixed bins that cover a wide range of magnitudes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

N_BINS = 81
"""The number of bins of a histogram; the middle bin, index 40, counts values near 0."""

_LINEAR = 0.01
_LIMIT = 12.0


def signed_log(values: Tensor) -> Tensor:
    """Returns `sign(x) * log(1 + |x| / 0.01)`: linear near 0, logarithmic for large values."""
    return values.abs().div_(_LINEAR).log1p_().copysign_(values)


def histogram_edges() -> Tensor:
    """Returns the bin edges in units of the activation, as a float64 tensor `(82,)`.

    The edges are evenly spaced from -12 to 12 on the `signed_log` scale, so each bin is a third
    wider than the next bin toward 0. The middle bin covers -0.0016 to 0.0016. The outermost edges
    are -1628 and 1628; values beyond the edges are counted in the outermost bins. NaN is not
    counted.
    """
    scaled = torch.linspace(-_LIMIT, _LIMIT, N_BINS + 1, dtype=torch.float64)
    return torch.copysign(torch.expm1(scaled.abs()) * _LINEAR, scaled)


def bin_positions(values: Tensor) -> Tensor:
    """Converts values to positions on the bin axis, from 0 (first edge) to 81 (last edge)."""
    return (signed_log(values).clamp(-_LIMIT, _LIMIT) / _LIMIT + 1) * N_BINS / 2


@contextmanager
def _order_does_not_matter() -> Iterator[None]:
    """Turns off torch's deterministic mode, in which `torch.histc` raises an error on CUDA.

    The counts of `torch.histc` do not depend on the order of its operations.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def histograms(values: Tensor) -> Tensor:
    """Returns the histogram `(rows, 81)` of each row of a float32 tensor `(rows, n)`."""
    scaled = signed_log(values).clamp_(-_LIMIT, _LIMIT)
    with _order_does_not_matter():
        return torch.stack([torch.histc(row, N_BINS, -_LIMIT, _LIMIT) for row in scaled])


def histogram(values: Tensor) -> Tensor:
    """Returns the counts per bin of `histogram_edges`: float32, `(81,)`, on the same device."""
    return histograms(values.float().reshape(1, -1))[0]
