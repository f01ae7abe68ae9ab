"""Callbacks and context managers that watch what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain import Callback, Event, Learner

Entry = tuple[str, int, int]


def _method(event: Event) -> Callable[[Any, Learner], None]:
    def method(self: Spy, learn: Learner) -> None:
        self.entries.append((event.value, learn.epoch, learn.iter))
        self.on(event, learn)

    return method


class Spy(Callback):
    """Records `(event, epoch, iter)` of every event after creation."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def on(self, event: Event, learn: Learner) -> None:
        """For subclasses: what to do at an event."""

    @property
    def events(self) -> list[str]:
        """The names of the events, in order."""
        return [entry[0] for entry in self.entries]


for _event in Event:
    if _event is not Event.AFTER_CREATE:
        setattr(Spy, _event.value, _method(_event))


class RaiseAt(Spy):
    """Raises an exception at one event, in a given epoch and iteration (or the first time)."""

    def __init__(
        self,
        event: Event,
        err: BaseException,
        epoch: int | None = None,
        iteration: int | None = None,
    ) -> None:
        super().__init__()
        self.event, self.err, self.epoch, self.iteration = event, err, epoch, iteration
        self.raised = False

    def on(self, event: Event, learn: Learner) -> None:
        here = self.epoch in (None, learn.epoch) and self.iteration in (None, learn.iter)
        if event is self.event and here and not self.raised:
            self.raised = True
            raise self.err


class _ReadCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is torch.ops.aten._local_scalar_dense.default
            or func is torch.ops.aten.is_nonzero.default
        ):
            self.n += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_reads() -> Iterator[_ReadCounter]:
    """Counts what would make the host wait for the device: item(), float(), bool(), tolist(), numpy() and cpu()."""
    counter = _ReadCounter()

    def counting(name: str) -> Any:
        original = getattr(torch.Tensor, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            counter.n += 1
            return original(self, *args, **kwargs)

        return patch.object(torch.Tensor, name, method)

    with counting("tolist"), counting("numpy"), counting("cpu"), counter:
        yield counter


class NoDoubles(TorchDispatchMode):
    """Refuses double precision on MPS, as MPS itself does; with fake tensors it needs no such device."""

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
    """Notes whether the copy to each device blocks."""

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
