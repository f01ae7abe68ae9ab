"""Finding the device to train on."""

import torch


def resolve_device(device: torch.device | str | None) -> torch.device:
    """The device by name, with its index; `None` or `"auto"` takes the accelerator if there is one, else the CPU.

    Raises:
        ValueError: if there is no such device; the message names those there are.
    """
    if device is None or device == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        there = ", ".join(available_devices())
        raise ValueError(
            f"device={device} cannot be used here: choose one of auto, {there}."
        ) from err


def available_devices() -> list[str]:
    """The names of the devices of this machine: the CPU, and every accelerator with its index."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
