"""Statistics of a model in training, by layer: activations, gradients, weights and updates.

They are computed on the device, into one buffer made before the fit, and read back many rows at a time: when they are
asked for, when the buffer is full, and when the fit ends.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from nntrain.batch import tensors_in
from nntrain.callback import Callback, Purpose
from nntrain.hooks import Hooks

if TYPE_CHECKING:
    from nntrain.learner import Learner

Modules: TypeAlias = Iterable[str | type[nn.Module]] | Callable[[str, nn.Module], bool]
"""Which modules: dotted names and types, or a function of name and module."""

ROOT = "model"
"""The name of the model itself, which torch leaves empty."""

N_BINS = 81
"""Bins of a histogram of activations; the middle one, index 40, is for what is nearly 0."""

_LINEAR = 0.01
_LIMIT = 12.0


def signed_log(values: Tensor) -> Tensor:
    """`sign(x) * log(1 + |x| / 0.01)`: even steps for values near 0, even ratios for large ones, of either sign."""
    return torch.copysign(torch.log1p(values.abs() / _LINEAR), values)


def histogram_edges() -> Tensor:
    """The edges of the histograms' bins `(82,)`, float64, in the activation's own unit.

    They are evenly spaced on the scale of `signed_log` from -12 to 12, so that a bin is a third wider than its neighbour
    nearer 0; the middle one reaches from -0.0016 to 0.0016, the outermost edges are -1628 and 1628. What lies beyond them
    is counted in the outermost bins; a NaN is counted nowhere.
    """
    scaled = torch.linspace(-_LIMIT, _LIMIT, N_BINS + 1, dtype=torch.float64)
    return torch.copysign(torch.expm1(scaled.abs()) * _LINEAR, scaled)


def bin_positions(values: Tensor) -> Tensor:
    """Where values lie on the axis of a histogram's bins, from 0 (the first edge) to 81 (the last)."""
    return (signed_log(values).clamp(-_LIMIT, _LIMIT) / _LIMIT + 1) * N_BINS / 2


@contextmanager
def _order_does_not_matter() -> Iterator[None]:
    """Lets torch.histc run on CUDA where deterministic algorithms are asked for: counting by ones is exact in any order."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def histogram(values: Tensor) -> Tensor:
    """How many values lie in each bin of `histogram_edges`: `(81,)`, float32, on the values' device."""
    scaled = signed_log(values.float()).clamp(-_LIMIT, _LIMIT)
    with _order_does_not_matter():
        return torch.histc(scaled, N_BINS, -_LIMIT, _LIMIT)


@dataclass(frozen=True, slots=True)
class History:
    """All that was recorded in a fit; a layer that did not run has NaN.

    `steps` are the `train_iter` of the rows, `layers` the names of the columns, and `values` has for each statistic a
    tensor `(steps, layers)`, float32, on the CPU.
    """

    steps: list[int]
    layers: list[str]
    values: Mapping[str, Tensor]


class RowBuffer:
    """Rows of one shape, written one at a time on the device and read back many at a time.

    Args:
        n_rows: rows that the device keeps; when they are full they are copied to the host at once.
        shape: the shape of a row.
        device: where rows are written.
    """

    def __init__(self, n_rows: int, shape: Sequence[int], device: torch.device) -> None:
        self._rows: Tensor | None = torch.empty(n_rows, *shape, device=device)
        self._shape = tuple(shape)
        self._n = 0
        self._blocks: list[Tensor] = []

    def next_row(self) -> Tensor:
        """The row to write now, filled with NaN; it does not count before `commit`."""
        assert self._rows is not None
        if self._n == len(self._rows):
            self._read_back()
        return self._rows[self._n].fill_(torch.nan)

    def commit(self) -> None:
        """Counts the row that was written last."""
        self._n += 1

    def _read_back(self) -> None:
        if self._rows is not None and self._n:
            # On the CPU .cpu() is no copy, and the rows are about to be written again.
            self._blocks.append(self._rows[: self._n].clone().cpu())
            self._n = 0

    def rows(self, start: int = 0) -> Tensor:
        """The rows since `start` rows were read `(rows, *shape)`, float32, on the CPU; this reads the device."""
        self._read_back()
        wanted, seen = [], 0
        for block in self._blocks:
            if seen >= start:
                wanted.append(block)
            seen += len(block)
        return torch.cat(wanted) if wanted else torch.empty(0, *self._shape)

    def close(self) -> None:
        """Reads everything back and frees the device's memory."""
        self._read_back()
        self._rows = None


def _is_default_activation(module: nn.Module) -> bool:
    silent = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)
    return not isinstance(module, silent) and next(module.children(), None) is None


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [param for param in module.parameters(recurse=False) if param.requires_grad]


def _check_names(names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"The model has no module {name!r}: it has {', '.join(known)}.{hint}")


def _checked(modules: Modules | None) -> Modules | None:
    if modules is None or callable(modules):
        return modules
    if isinstance(modules, str):
        raise TypeError(f"modules={modules!r} is no list: write [{modules}] for this one module.")
    listed = tuple(modules)
    for one in listed:
        if not isinstance(one, str | type):
            raise TypeError(f"modules holds {one!r}, neither a name nor a type: write a name in quotes, such as '{one}'.")
    return listed


def choose_modules(model: nn.Module, modules: Modules | None, default: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    """The chosen modules by dotted name, in the model's order, each once; the model itself is called `model`.

    Args:
        model: where to look.
        modules: names and types, or a function of name and module; `None` takes what `default` accepts.
        default: the choice where `modules` says nothing.

    Raises:
        ValueError: if a name is none of the model's modules, or nothing at all was chosen.
    """
    named = {name or ROOT: module for name, module in model.named_modules()}
    if modules is None:
        chosen = {name: module for name, module in named.items() if default(module)}
    elif callable(modules):
        chosen = {name: module for name, module in named.items() if modules(name, module)}
    else:
        chosen = _listed(named, list(modules))
    if not chosen:
        raise ValueError(f"No module was chosen by modules={modules!r}: the model has {', '.join(named)}.")
    return chosen


def _listed(named: Mapping[str, nn.Module], wanted: list[str | type[nn.Module]]) -> dict[str, nn.Module]:
    _check_names([one for one in wanted if isinstance(one, str)], named)
    types = tuple(one for one in wanted if isinstance(one, type))
    return {name: module for name, module in named.items() if name in wanted or isinstance(module, types)}


class Statistics(Callback):
    """Numbers by layer for some of the training batches; the base of those below and of your own.

    `drain` gives the new rows to whoever ships them, `history` all of them. The step of a row is `learn.train_iter` as
    it is after the batch: 1 for the first one. Of each `every` batches the first that gets so far is taken, so with
    `every=3` steps 1, 4, 7 and so on; a batch that is cancelled hands its turn on to the next. A subclass says in
    `prefix` and `names` what its keys are, and writes rows between `_begin_row` and `_end_row`.

    Args:
        modules: dotted names and types of the modules to watch, or a function of name and module; `None` takes all that
            the class is made for.
        every: take one of so many training batches.
        buffer_rows: rows kept on the device before they are read back.

    Raises:
        TypeError: if `modules` is a string, or holds what is neither a name nor a type.
        ValueError: if `every` or `buffer_rows` is less than 1; before the fit, if `modules` fits none of the model's.
    """

    order: ClassVar[int] = 20
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    prefix: ClassVar[str]
    """What stands before the layer in a key."""
    names: ClassVar[tuple[str, ...]]
    """The statistics of one layer."""

    def __init__(self, *, modules: Modules | None = None, every: int = 1, buffer_rows: int = 256) -> None:
        if every < 1 or buffer_rows < 1:
            raise ValueError(f"every and buffer_rows must be at least 1 but are {every} and {buffer_rows}.")
        self.modules, self.every, self.buffer_rows = _checked(modules), every, buffer_rows
        self.layers: list[str] = []
        self._watched: list[nn.Module] = []
        self._buffer: RowBuffer | None = None
        self._steps: list[int] = []
        self._ran: list[list[int]] = []
        self._n_drained = 0
        self._window = -1

    def _choose(self, model: nn.Module) -> dict[str, nn.Module]:
        return choose_modules(model, self.modules, _is_default_activation)

    def _row_shape(self) -> tuple[int, ...]:
        return (len(self.layers), len(self.names))

    def state_dict(self) -> dict[str, Any]:
        """Where the sampling stands; the rows themselves are not kept."""
        return {"window": self._window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._window = state["window"]

    def before_fit(self, learn: Learner) -> None:
        """Chooses the layers and begins a new record."""
        chosen = self._choose(learn.model)
        self.layers, self._watched = list(chosen), list(chosen.values())
        self._buffer = RowBuffer(self.buffer_rows, self._row_shape(), learn.device)
        self._steps, self._ran, self._n_drained, self._window = [], [], 0, -1

    def _is_due(self, learn: Learner) -> bool:
        return learn.training and learn.train_iter // self.every != self._window

    def _begin_row(self) -> Tensor:
        assert self._buffer is not None
        return self._buffer.next_row()

    def _end_row(self, learn: Learner, ran: Iterable[int]) -> None:
        """Counts the row; `ran` are the indices of the layers that it has values for."""
        assert self._buffer is not None
        self._buffer.commit()
        self._steps.append(learn.train_iter + 1)
        self._ran.append(sorted(ran))
        self._window = learn.train_iter // self.every

    def _rows(self, start: int = 0) -> Tensor:
        return torch.empty(0, *self._row_shape()) if self._buffer is None else self._buffer.rows(start)

    def drain(self) -> list[tuple[int, dict[str, float]]]:
        """The rows since the last call, as `(train_iter, {"act/LAYER/mean": ...})`, in one copy from the device.

        A layer that did not run in a batch is left out of its row. It may be called at any time, also after the fit.
        """
        start, self._n_drained = self._n_drained, len(self._steps)
        values = self._rows(start)[..., : len(self.names)].tolist()
        return [
            (step, self._keyed(ran, row)) for step, ran, row in zip(self._steps[start:], self._ran[start:], values, strict=True)
        ]

    def _keyed(self, ran: Iterable[int], row: list[list[float]]) -> dict[str, float]:
        keys = {i: f"{self.prefix}/{self.layers[i]}" for i in ran}
        return {f"{keys[i]}/{name}": value for i in keys for name, value in zip(self.names, row[i], strict=True)}

    def history(self) -> History:
        """Everything since the fit began, whether drained or not; this reads the device."""
        rows = self._rows()
        values = {name: rows[..., i] for i, name in enumerate(self.names)}
        return History(list(self._steps), list(self.layers), values)

    def cleanup_fit(self, learn: Learner) -> None:
        """Reads everything back and frees the device's memory."""
        self._watched = []
        if self._buffer is not None:
            self._buffer.close()


def _with_units(activation: Tensor) -> Tensor:
    """At least two axes: a batch of scalars is a batch of one unit each."""
    return activation.reshape(-1, 1) if activation.dim() < 2 else activation


def activation_statistics(activation: Tensor, unit_dim: int = 1) -> Tensor:
    """Mean, standard deviation, share of dead units and largest magnitude `(4,)`, float32, on the same device.

    The standard deviation is torch's (with Bessel's correction), and 0 for a single value. A unit, one index of axis
    `unit_dim`, is dead if it is exactly 0 for all of the batch and all positions.
    """
    values = _with_units(activation).float()
    std, mean = torch.std_mean(values, correction=min(1, values.numel() - 1))
    others = [dim for dim in range(values.dim()) if dim != unit_dim % values.dim()]
    largest = values.abs().amax(others)
    return torch.stack([mean, std, (largest == 0).float().mean(), largest.amax()])


class ActivationStats(Statistics):
    """Statistics of the outputs of layers in training: is the signal alive, and neither vanishing nor exploding?

    ======================  ==============================================================================
    key                     meaning, over all values of the layer's output for one training batch
    ======================  ==============================================================================
    `act/LAYER/mean`        mean
    `act/LAYER/std`         standard deviation, torch's
    `act/LAYER/dead_frac`   share of units (channels, features) that are exactly 0 for the whole batch
    `act/LAYER/max_abs`     largest magnitude
    ======================  ==============================================================================

    `histograms` has the distribution as well, in the bins of `histogram_edges`. By default the output of every leaf module
    is watched but those that only reshape, pass on or drop out. Of an output that is a tuple or mapping, the first
    floating-point tensor counts; of a module that runs several times in a batch, the last run. Half precision is
    computed in float32. Hooks are on the model only while a chosen batch runs, so the others cost nothing.

    Args:
        modules, every, buffer_rows: as for `Statistics`.
        unit_dim: the axis of an output that holds its units: 1 for `(batch, features)` and `(batch, channels, ...)`,
            -1 for `(batch, tokens, features)`.

    Raises:
        ValueError: if `unit_dim` is neither 1 nor -1.
    """

    prefix: ClassVar[str] = "act"
    names: ClassVar[tuple[str, ...]] = ("mean", "std", "dead_frac", "max_abs")

    def __init__(self, *, modules: Modules | None = None, every: int = 1, buffer_rows: int = 256, unit_dim: int = 1) -> None:
        super().__init__(modules=modules, every=every, buffer_rows=buffer_rows)
        if unit_dim not in (1, -1):
            raise ValueError(f"unit_dim={unit_dim} is neither 1 (channels first) nor -1 (features last).")
        self.unit_dim = unit_dim
        self._hooks: Hooks | None = None
        self._row = torch.empty(0)
        self._seen: set[int] = set()

    def _row_shape(self) -> tuple[int, ...]:
        return (len(self.layers), len(self.names) + N_BINS)

    def before_fit(self, learn: Learner) -> None:
        """Chooses the layers and begins a new record."""
        super().before_fit(learn)
        self._index = {module: i for i, module in enumerate(self._watched)}

    def before_batch(self, learn: Learner) -> None:
        """Puts the hooks on if this batch is to be taken."""
        self._unhook()  # a cancel may have left the last batch before its prediction
        if self._is_due(learn):
            self._row, self._seen = self._begin_row(), set()
            self._hooks = Hooks(self._watched, self._take)

    @torch.no_grad()
    def _take(self, module: nn.Module, inputs: Any, output: Any) -> None:
        found = next((part for part in tensors_in(output) if part.is_floating_point() and part.numel()), None)
        if found is not None:
            i = self._index[module]
            self._row[i] = torch.cat([activation_statistics(found, self.unit_dim), histogram(found)])
            self._seen.add(i)

    def after_pred(self, learn: Learner) -> None:
        """Takes the hooks off and counts the row."""
        if self._hooks is not None:
            self._unhook()
            self._end_row(learn, self._seen)

    def _unhook(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def histograms(self) -> Tensor:
        """Counts `(steps, layers, 81)`, float32, on the CPU, in the bins of `histogram_edges`; this reads the device."""
        return self._rows()[..., len(self.names) :]

    def cleanup_fit(self, learn: Learner) -> None:
        """Takes the hooks off, reads everything back and frees the device's memory."""
        self._unhook()
        self._index = {}
        super().cleanup_fit(learn)


def _dense(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor


class NormsByLayer:
    """The Euclidean norm over each layer's tensors, for all layers in a few kernels.

    Args:
        sizes: how many tensors each layer has.
        device: where the norms are wanted.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._none = sum(sizes)
        slots = [
            [start + k if k < n else self._none for k in range(max(sizes))] for start, n in zip(starts, sizes, strict=True)
        ]
        self._slots = torch.tensor(slots, device=device)
        self._zero = torch.zeros((), device=device)

    def __call__(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """The norms `(layers,)`, float32, of all layers' tensors one after another; a `None` counts as 0."""
        found = [_dense(tensor) for tensor in tensors if tensor is not None]
        known = iter(torch._foreach_norm(found, 2, dtype=torch.float32) if found else ())
        every = [self._zero if tensor is None else next(known) for tensor in tensors]
        by_layer = torch.stack([*every, self._zero])[self._slots]
        norms: Tensor = torch.linalg.vector_norm(by_layer, dim=1)
        return norms


class ParameterStatistics(Statistics):
    """One norm for each module that has trainable parameters of its own; the base of the three below."""

    names: ClassVar[tuple[str, ...]] = ("norm",)

    def _choose(self, model: nn.Module) -> dict[str, nn.Module]:
        chosen = choose_modules(model, self.modules, lambda module: bool(_trainable(module)))
        if bare := [name for name, module in chosen.items() if not _trainable(module)]:
            raise ValueError(
                f"{', '.join(bare)} has no trainable parameter of its own: "
                f"choose among {', '.join(choose_modules(model, None, lambda module: bool(_trainable(module))))}."
            )
        return chosen

    def before_fit(self, learn: Learner) -> None:
        """Chooses the layers and begins a new record."""
        super().before_fit(learn)
        by_layer = [_trainable(module) for module in self._watched]
        self._params = [param for params in by_layer for param in params]
        self._owners = [i for i, params in enumerate(by_layer) for _ in params]
        self._norms = NormsByLayer([len(params) for params in by_layer], learn.device)

    def _record(self, learn: Learner, values: Tensor, ran: Iterable[int]) -> None:
        self._begin_row()[:, 0] = values
        self._end_row(learn, ran)

    def cleanup_fit(self, learn: Learner) -> None:
        """Reads everything back and lets go of the parameters."""
        self._params, self._owners = [], []
        super().cleanup_fit(learn)


class GradientStats(ParameterStatistics):
    """The Euclidean norm of each layer's gradient after the backward pass, before it is clipped.

    Keys are `grad/LAYER/norm`, over the parameters that the layer itself owns and that have a gradient; a layer without
    one is left out. Where gradients are accumulated it is the sum so far.

    Args:
        modules, every, buffer_rows: as for `Statistics`.
    """

    order: ClassVar[int] = 5
    prefix: ClassVar[str] = "grad"

    @torch.no_grad()
    def after_backward(self, learn: Learner) -> None:
        """Takes the norms if this batch is to be taken."""
        if self._is_due(learn):
            grads = [param.grad for param in self._params]
            ran = {owner for owner, grad in zip(self._owners, grads, strict=True) if grad is not None}
            self._record(learn, self._norms(grads), ran)


class WeightStats(ParameterStatistics):
    """The Euclidean norm of each layer's own trainable parameters after the optimizer's step; keys `weight/LAYER/norm`.

    Args:
        modules, every, buffer_rows: as for `Statistics`.
    """

    prefix: ClassVar[str] = "weight"

    @torch.no_grad()
    def after_step(self, learn: Learner) -> None:
        """Takes the norms if this batch is to be taken."""
        if self._is_due(learn):
            self._record(learn, self._norms(self._params), range(len(self.layers)))


class UpdateStats(ParameterStatistics):
    """How far a step moves each layer: the norm of the change divided by the norm of the weights before it.

    Keys are `update/LAYER/ratio`; about 1e-3 is usual (Karpathy, 2015, https://cs231n.github.io/neural-networks-3/#ratio).
    It is infinite where the weights were 0. The change is measured, not derived, so it holds for any optimizer; it needs
    a copy of the weights for the length of a step that is taken. A step that is cancelled gives no row.

    Args:
        modules, every, buffer_rows: as for `Statistics`.
    """

    prefix: ClassVar[str] = "update"
    names: ClassVar[tuple[str, ...]] = ("ratio",)
    _before: list[Tensor]

    def before_fit(self, learn: Learner) -> None:
        """Chooses the layers and begins a new record."""
        super().before_fit(learn)
        self._before = []

    def before_step(self, learn: Learner) -> None:
        """Copies the weights if this batch is to be taken."""
        if self._is_due(learn):
            self._before = [param.detach().clone() for param in self._params]

    def after_cancel_step(self, learn: Learner) -> None:
        """Forgets the copy."""
        self._before = []

    @torch.no_grad()
    def after_step(self, learn: Learner) -> None:
        """Compares the weights with the copy."""
        if self._before:
            before = self._norms(self._before)
            torch._foreach_sub_(self._before, list[Tensor](self._params))
            self._record(learn, self._norms(self._before) / before, range(len(self.layers)))
            self._before = []

    def cleanup_fit(self, learn: Learner) -> None:
        """Reads everything back and forgets the copy."""
        self._before = []
        super().cleanup_fit(learn)
