"""Context manager that restores the exact state of a Learner."""

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

# the loop replaces these attributes instead of modifying their values, so references are enough
_BATCH_ATTRIBUTES = frozenset({"dls", "dl", "batch", "xb", "yb", "pred", "loss", "loss_parts"})

_MAPPINGS = (dict, OrderedDict, defaultdict)
_SEQUENCES = (list, deque)


@runtime_checkable
class _Stateful(Protocol):
    """An object with a state dict, such as a module, optimizer, callback, metric or grad scaler."""

    def state_dict(self) -> Mapping[str, Any]:
        """Returns the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restores a state."""


class _Snapshot:
    """Copies the contents of objects, and later restores the same objects in place.

    Objects are not replaced because optimizers, hooks and schedulers hold references to them. The
    snapshot includes the contents of containers and the attributes of stateful objects.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._restores: list[Callable[[], object]] = []

    def keep(self, value: Any) -> None:
        """Copies the contents of a value, recursively."""
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value  # a reference to the value ensures that its id is not reused
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
        """Copies the items of a mapping; for the keys in `skip`, saves only a reference."""
        self._seen[id(mapping)] = mapping
        items = dict(mapping)
        self._restores += [mapping.clear, lambda: mapping.update(items)]
        for key, item in items.items():
            if key not in skip:
                self.keep(item)

    def keep_generator(self, value: Any) -> None:
        """Copies the state of a PyTorch, NumPy or Python random number generator."""
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
        """Saves the class of a lazy module or tensor. The first forward pass changes the class."""
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
        """Restores all saved objects."""
        with torch.no_grad():
            for restore in self._restores:
                restore()


def _is_expanded(tensor: Tensor) -> bool:
    """Returns whether elements share memory, as after `expand`. PyTorch forbids writing to them."""
    strided = tensor.layout is torch.strided
    return strided and any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _keep_loader(snapshot: _Snapshot, loader: Any) -> None:
    """Saves the attributes and generators of a loader, its samplers and dataset, but no data."""
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
        # the generators in persistent workers cannot be restored, so new workers are started
        loader._iterator = None


def _loaders(learn: Learner) -> list[Any]:
    loaders = [loader for loader in (learn.dls.train, learn.dls.valid) if loader is not None]
    if any(isinstance(loader, Iterator) for loader in loaders):
        raise TypeError(
            "A data loader is an iterator, which can be used only once: "
            "pass an iterable such as a list or a DataLoader."
        )
    return loaders


@contextmanager
def leave_no_trace(learn: Learner) -> Iterator[None]:
    """Context manager that restores the exact state of a learner, even after an exception.

    The state includes:

    - the model with its buffers, gradients, train/eval modes, hooks and other attributes,
    - the optimizer, and the parameters of the loss,
    - callbacks, metrics, and the counters and results of the learner,
    - the random number generators of Python, NumPy, PyTorch and the data loaders.

    Raises:
        TypeError: if a data loader can be iterated only once.
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
    """Runs the epochs of a loop that is not a normal fit. Call this within `leave_no_trace`."""
    learn = loop.learn
    learn.prepare_opt(None, learn.wd, reset=False)
    learn.n_epoch, learn.start_epoch = n_epoch, 0
    learn.epoch, learn.iter, learn.pct_train = 0, 0, 0.0
    return loop.fit()
