import pytest
import torch

from nntrain.core.smoothing import smooth


def test_smooth_by_hand() -> None:
    """Expects 0.5*4 / 0.5, then (0.5*2 + 0.5*1) / 0.75, then (0.5*1.5 + 0.5*1) / 0.875."""
    assert smooth(torch.tensor([4.0, 1.0, 1.0]), beta=0.5).tolist() == pytest.approx(
        [4.0, 2.0, 10 / 7]
    )


def test_smooth_of_nothing_is_empty() -> None:
    assert smooth(torch.empty(0)).shape == (0,)
