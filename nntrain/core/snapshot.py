"""Runs of the loop that leave no trace: everything that training changes is restored."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from nntrain.core.loop import Loop
from nntrain.core.optimizer import Optimizer
from nntrain.core.rng import kept_rng

if TYPE_CHECKING:
    from nntrain.learner import Learner
    from nntrain.result import FitResult

# large, replaced by each batch and never written to: keeping the reference is enough
_BATCH_ATTRIBUTES = frozenset({"dls", "dl", "batch", "xb", "yb", "pred", "loss", "loss_parts"})

_MAPPINGS = (dict, OrderedDict, defaultdict)
_SEQUENCES = (list, deque)


@runtime_checkable
class _Stateful(Protocol):
    """An object with a state: a module, optimizer, callback, metric, gradient scaler and so on."""

    def state_dict(self) -> Mapping[str, Any]:
        """Returns the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restores a state."""


class _Snapshot:
    """Copies the contents of objects, and restores them into the same objects.

    The objects keep their identity because optimizers, hooks and schedulers refer to them. It
    follows containers and the attributes of stateful objects, but no other objects.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._restores: list[Callable[[], object]] = []

    def keep(self, value: Any) -> None:
        """Copies the contents of a value and of everything in it."""
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value  # also keeps it alive, so that its id stays unique
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif type(value) in _MAPPINGS:
            self.keep_mapping(value)
        elif type(value) in _SEQUENCES or isinstance(value, tuple | set):
            self._keep_items(value)
        elif isinstance(value, _Stateful | Optimizer):
            self._keep_object(value)
        else:
            self.keep_generator(value)

    def keep_mapping(self, mapping: dict[Any, Any], *, skip: Container[str] = ()) -> None:
        """Copies the items of a mapping; under the keys to skip, only the reference."""
        self._seen[id(mapping)] = mapping
        items = dict(mapping)
        self._restores += [mapping.clear, lambda: mapping.update(items)]
        for key, item in items.items():
            if key not in skip:
                self.keep(item)

    def keep_generator(self, value: Any) -> None:
        """Copies the state of a random number generator of torch, NumPy or Python."""
        if isinstance(value, torch.Generator):
            state = value.get_state()
            self._restores.append(lambda: value.set_state(state))
        elif isinstance(value, np.random.Generator):
            numpy_state = value.bit_generator.state
            self._restores.append(lambda: setattr(value.bit_generator, "state", numpy_state))
        elif isinstance(value, random.Random):
            python_state = value.getstate()
            self._restores.append(lambda: value.setstate(python_state))

    def _keep_items(self, items: Any) -> None:
        kept = list(items)
        if not isinstance(items, tuple):
            refill = items.update if isinstance(items, set) else items.extend
            self._restores += [items.clear, lambda: refill(kept)]
        for item in kept:
            self.keep(item)

    def _keep_object(self, value: Any) -> None:
        if isinstance(value, LazyModuleMixin):
            self._keep_class(value)
        self.keep(getattr(value, "__dict__", {}))

    def _keep_class(self, value: Any) -> None:
        """Keeps the class of a lazy module or tensor, which changes with its first batch."""
        kind = type(value)
        self._restores.append(lambda: setattr(value, "__class__", kind))

    def _keep_lazy(self, tensor: Tensor) -> None:
        data = tensor.data
        self._restores += [
            lambda: setattr(tensor, "grad", None),
            lambda: setattr(tensor, "data", data),
        ]
        self._keep_class(tensor)

    def _keep_tensor(self, tensor: Tensor) -> None:
        if is_lazy(tensor):
            self._keep_lazy(tensor)
        elif not (tensor.is_inference() or _is_expanded(tensor)):
            self._keep_contents(tensor)

    def _keep_contents(self, tensor: Tensor) -> None:
        data, grad = tensor.detach(), tensor.grad if tensor.is_leaf else None
        contents = data.clone()
        if grad is not None:
            self.keep(grad)

        def restore() -> None:
            data.copy_(contents)
            if tensor.is_leaf:
                tensor.data, tensor.grad = data, grad

        self._restores.append(restore)

    def restore(self) -> None:
        """Restores everything."""
        with torch.no_grad():
            for restore in self._restores:
                restore()


def _is_expanded(tensor: Tensor) -> bool:
    """Returns whether elements share memory; such a tensor cannot be written to."""
    strided = tensor.layout is torch.strided
    return strided and any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _keep_loader(snapshot: _Snapshot, loader: Any) -> None:
    """Copies counters and generators of a loader, its samplers and its dataset, but no data."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    for owner in (loader, *samplers, getattr(loader, "dataset", None)):
        attributes = getattr(owner, "__dict__", {})
        snapshot.keep_mapping(attributes, skip=attributes)
        for value in attributes.values():
            snapshot.keep_generator(value)
    if getattr(loader, "_iterator", None) is not None:
        # torch's persistent workers: their generators cannot be rewound, so new workers start
        loader._iterator = None


def _loaders(learn: Learner) -> list[Any]:
    loaders = [loader for loader in (learn.dls.train, learn.dls.valid) if loader is not None]
    if any(isinstance(loader, Iterator) for loader in loaders):
        raise TypeError(
            "A loader is an iterator, which cannot be started again: "
            "use an iterable such as a list or DataLoader."
        )
    return loaders


@contextmanager
def leave_no_trace(learn: Learner) -> Iterator[None]:
    """Restores the learner bit for bit after the `with` block, even if an exception ends it.

    This covers the model with its buffers, gradients, modes, hooks and plain attributes; the
    optimizer, or its absence; a loss with parameters; callbacks and metrics; the learner's counters
    and results; and the random number generators of Python, NumPy, torch, the loaders, their
    samplers and datasets.

    Raises:
        TypeError: if a loader can be iterated only once.
    """
    loaders, snapshot = _loaders(learn), _Snapshot()
    with kept_rng(loaders):
        snapshot.keep_mapping(vars(learn), skip=_BATCH_ATTRIBUTES)
        for loader in loaders:
            _keep_loader(snapshot, loader)
        try:
            yield
        finally:
            snapshot.restore()


def mock_fit(loop: Loop, n_epoch: int) -> FitResult:
    """Runs a loop as `Learner.fit` does; meant for another purpose, within `leave_no_trace`."""
    learn = loop.learn
    learn.prepare_opt(None, learn.wd, reset=False)
    learn.n_epoch, learn.start_epoch = n_epoch, 0
    learn.epoch, learn.iter, learn.pct_train = 0, 0, 0.0
    return loop.fit()
