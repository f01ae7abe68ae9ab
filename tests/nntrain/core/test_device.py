"""Devices are found by name; an unavailable device is an error that lists the available devices."""

import pytest
import torch

from nntrain.core.device import available_devices, resolve_device

NO_ACCELERATOR = not torch.accelerator.is_available()


@pytest.mark.skipif(not NO_ACCELERATOR, reason="for machines without an accelerator")
@pytest.mark.parametrize("name", [None, "auto", "cpu", torch.device("cpu")])
def test_without_an_accelerator_the_cpu_is_used(name: torch.device | str | None) -> None:
    assert resolve_device(name) == torch.device("cpu")
    assert available_devices() == ["cpu"]


@pytest.mark.parametrize("name", ["gpu7", "cuda:99", "nosuch", ""])
def test_an_unavailable_device_is_an_error_that_lists_the_available_ones(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not available on this machine: choose one of auto, cpu"
    ):
        resolve_device(name)
