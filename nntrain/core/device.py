"""Device selection."""

import torch


def resolve_device(device: torch.device | str | None) -> torch.device:
    """Returns the device with the given name.

    `None` or `"auto"` selects the accelerator, or the CPU if there is no accelerator.

    Raises:
        ValueError: if the device is not available; the message lists the available devices.
    """
    if device is None or device == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        there = ", ".join(available_devices())
        raise ValueError(
            f"device={device} is not available on this machine: choose one of auto, {there}."
        ) from err


def available_devices() -> list[str]:
    """Returns the names of the available devices, for example `["cpu", "cuda:0", "cuda:1"]`."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
