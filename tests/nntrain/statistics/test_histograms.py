"""Histograms equal numpy's counts between the documented edges."""

import math

import numpy as np
import pytest
import torch

from nntrain.statistics import histogram, histogram_edges


def test_histogram_counts_between_its_documented_edges() -> None:
    values = torch.cat(
        [10 ** torch.linspace(-4, 3, 500), -(10 ** torch.linspace(-5, 3.1, 300)), torch.zeros(50)]
    )
    edges = histogram_edges()
    assert len(edges) == 82
    assert edges[[0, -1]].tolist() == pytest.approx([-1627.5, 1627.5], abs=0.1)
    expected = np.histogram(values.numpy(), edges.numpy())[0]
    assert histogram(values).tolist() == expected.tolist()
    assert histogram(values)[40] >= 50


def test_histogram_counts_extreme_values_in_the_outermost_bins_and_ignores_nan() -> None:
    counts = histogram(torch.tensor([math.inf, 1e9, -1e9, math.nan, 0.0]))
    assert (counts[-1].item(), counts[0].item(), counts[40].item(), counts.sum().item()) == (
        2,
        1,
        1,
        4,
    )


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_histogram_leaves_the_deterministic_mode_as_it_was(mode: int) -> None:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    try:
        histogram(torch.ones(3))
        assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(before)
