"""The device to train on."""

import torch


def resolve_device(device: torch.device | str | None) -> torch.device:
    """Returns a device by name; `None` or `"auto"` selects the accelerator, or the CPU without one.

    Raises:
        ValueError: if the device cannot be used; the message lists those that can.
    """
    if device is None or device == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        there = ", ".join(available_devices())
        raise ValueError(
            f"device={device} cannot be used on this machine: choose one of auto, {there}."
        ) from err


def available_devices() -> list[str]:
    """Returns the names of this machine's devices: `cpu`, and each accelerator with its index."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
