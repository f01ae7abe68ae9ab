"""Callbacks that watch or disturb a fit, and a counter of device reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain.core.callback import Callback
from nntrain.core.events import Event
from nntrain.learner import Learner


class SpyCallback(Callback):
    """Records `(event, epoch, iter)` of every event except `after_create`.

    A subclass may override `on` to act at events as well.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, int]] = []

    def on(self, event: Event, learn: Learner) -> None:
        """Called at each event, after it is recorded."""

    @property
    def events(self) -> list[str]:
        """The names of the events, in order."""
        return [entry[0] for entry in self.entries]


def _recorded(event: Event) -> Callable[[SpyCallback, Learner], None]:
    def method(self: SpyCallback, learn: Learner) -> None:
        self.entries.append((event.value, learn.epoch, learn.iter))
        self.on(event, learn)

    method.__name__, method.__doc__ = event.value, f"Records `{event.value}`."
    return method


for _event in Event:
    if _event is not Event.AFTER_CREATE:
        setattr(SpyCallback, _event.value, _recorded(_event))


class RaiseAt(SpyCallback):
    """Raises an exception once, at the first occurrence of an event that matches.

    Args:
        event: the event.
        err: the exception.
        epoch: the epoch to wait for, from 0; `None` matches every epoch.
        iteration: the batch to wait for, from 0 in its part of the epoch; `None` matches every one.
    """

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
        """Raises the exception if this is the place."""
        here = self.epoch in (None, learn.epoch) and self.iteration in (None, learn.iter)
        if event is self.event and here and not self.raised:
            self.raised = True
            raise self.err


class ReadCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts device reads in `n`; made by `counted_reads`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is torch.ops.aten._local_scalar_dense.default
            or func is torch.ops.aten.is_nonzero.default
        ):
            self.n += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_reads() -> Iterator[ReadCounter]:
    """Counts the calls that make the host wait for the device.

    These are `item()`, `float()`, `bool()`, `tolist()`, `numpy()` and `cpu()`. Such calls count on
    the CPU too, where they cost nothing.
    """
    counter = ReadCounter()

    def counting(name: str) -> Any:
        original = getattr(torch.Tensor, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            counter.n += 1
            return original(self, *args, **kwargs)

        return patch.object(torch.Tensor, name, method)

    with counting("tolist"), counting("numpy"), counting("cpu"), counter:
        yield counter
