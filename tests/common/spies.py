"""Context managers that observe torch operations."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoDoubles(TorchDispatchMode):
    """Raises an error for float64 tensors on MPS, even for fake tensors, as a real device does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (
            isinstance(result, torch.Tensor)
            and result.device.type == "mps"
            and result.dtype is torch.float64
        ):
            raise TypeError(f"{func} made a tensor in double precision on MPS.")
        return result


class Transfers(TorchDispatchMode):
    """Records, for each device, whether the last copy to it was blocking."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking: dict[str, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is torch.ops.aten._to_copy.default
            and (device := (kwargs or {}).get("device")) is not None
        ):
            self.blocking[str(device)] = not kwargs.get("non_blocking", False)
        return func(*args, **(kwargs or {}))
