"""Callbacks that record events or raise exceptions, and a counter for device reads."""

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
    """Records `(event, epoch, iter)` for every event except `after_create`.

    Subclasses can override `on` to do something at each event.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, int]] = []

    def on(self, event: Event, learn: Learner) -> None:
        """Called after each event is recorded."""

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
    """Raises an exception once, at the first event that matches.

    Args:
        event: the event.
        err: the exception.
        epoch: index of the epoch; `None` matches all epochs.
        iteration: index of the batch in the training or validation part; `None` matches all
            batches.
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
        """Raises the exception if the event, epoch and batch match."""
        here = self.epoch in (None, learn.epoch) and self.iteration in (None, learn.iter)
        if event is self.event and here and not self.raised:
            self.raised = True
            raise self.err


class ReadCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts device reads; `n` is the count. Use `counted_reads` to create a counter."""

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
    """Context manager that counts calls that synchronize with the device.

    The counted calls are `item()`, `float()`, `bool()`, `tolist()`, `numpy()` and `cpu()`. Calls on
    CPU tensors are counted, too, although they do not synchronize.
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
