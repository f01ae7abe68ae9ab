"""Running the loop without leaving a trace: everything that training changes is put back."""

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

from nntrain.core.optimizer import Optimizer
from nntrain.core.rng import kept_rng

if TYPE_CHECKING:
    from nntrain.core.callback import Purpose
    from nntrain.learner import Learner
    from nntrain.result import FitResult

# Large, replaced by each batch and never written to, so that keeping the reference is enough.
_BATCH_ATTRIBUTES = frozenset({"dls", "dl", "batch", "xb", "yb", "pred", "loss", "loss_parts"})

_MAPPINGS = (dict, OrderedDict, defaultdict)
_SEQUENCES = (list, deque)


@runtime_checkable
class _Stateful(Protocol):
    """A module, torch optimizer, callback, metric, gradient scaler and the like: what may be put in a checkpoint."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Takes it back."""


class _Snapshot:
    """Remembers the contents of objects, and puts them back into the same objects.

    The objects themselves stay, because optimizers, hooks and schedulers hold references to them. Containers and the
    attributes of stateful objects are followed; other objects are not.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._restores: list[Callable[[], object]] = []

    def keep(self, value: Any) -> None:
        """Remembers the contents of a value, and of everything that it is made of."""
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value  # also keeps it alive, so that no other object gets its id
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
        """Remembers the items of a mapping; under the keys to skip only which object it is, not its contents."""
        self._seen[id(mapping)] = mapping
        items = dict(mapping)
        self._restores += [mapping.clear, lambda: mapping.update(items)]
        for key, item in items.items():
            if key not in skip:
                self.keep(item)

    def keep_generator(self, value: Any) -> None:
        """Remembers the state of a random number generator of torch, NumPy or Python; leaves other objects alone."""
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
        """For what torch calls lazy: it changes its class when it sees the first batch."""
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
        """Puts everything back."""
        with torch.no_grad():
            for restore in self._restores:
                restore()


def _is_expanded(tensor: Tensor) -> bool:
    """Whether several elements share their memory; nobody can write to such a tensor, so it need not be kept."""
    strided = tensor.layout is torch.strided
    return strided and any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _keep_loader(snapshot: _Snapshot, loader: Any) -> None:
    """Keeps counters and generators of a loader, its samplers and its dataset, but not the data they hold."""
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
        # torch's persistent workers: nobody can wind back the generators within them, so others are started meanwhile.
        loader._iterator = None


def _loaders(learn: Learner) -> list[Any]:
    loaders = [loader for loader in (learn.dls.train, learn.dls.valid) if loader is not None]
    if any(isinstance(loader, Iterator) for loader in loaders):
        raise TypeError(
            "A loader is an iterator, which cannot be started again: give an iterable such as a list or DataLoader."
        )
    return loaders


@contextmanager
def leave_no_trace(learn: Learner) -> Iterator[None]:
    """Leaves the learner after the `with` block, bit for bit, as it was before, also where an exception ends the block.

    Put back are: the model with its buffers, gradients, modes, hooks and plain attributes; the optimizer, or that there
    was none; a loss with parameters; callbacks and metrics; the learner's counters and results; Python's, NumPy's and
    torch's random number generators and those of the loaders, their samplers and datasets.

    Raises:
        TypeError: if a loader can only be gone through once.
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


def mock_fit(learn: Learner, purpose: Purpose, n_epoch: int) -> FitResult:
    """Runs the loop as `Learner.fit` would, but for another purpose; meant for use within `leave_no_trace`."""
    learn._prepare_optimizer(None, learn.wd, reset=False)
    learn.n_epoch, learn.start_epoch = n_epoch, 0
    learn.epoch, learn.iter, learn.pct_train = 0, 0, 0.0
    return learn._run(purpose, learn._do_epochs)
