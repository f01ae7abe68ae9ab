"""The base class of per-layer statistics, which samples batches and stores rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from nntrain.core.callback import Callback, Purpose
from nntrain.statistics.buffer import RowBuffer
from nntrain.statistics.modules import Modules, checked, choose_modules

if TYPE_CHECKING:
    from nntrain.learner import Learner


@dataclass(frozen=True, slots=True)
class History:
    """All statistics recorded in a fit; NaN marks a layer that did not run.

    `steps` holds the `train_iter` of each row, `layers` the name of each column, and `values` one
    tensor `(steps, layers)` per statistic, float32, on the CPU.
    """

    steps: list[int]
    layers: list[str]
    values: Mapping[str, Tensor]


class Statistics(Callback):
    """Base class of callbacks that record per-layer numbers for some of the training batches.

    `drain` returns the new rows, `history` all rows. The step of a row is `learn.train_iter` after
    the batch: 1 for the first batch. One of every `every` batches is sampled: with `every=3`, the
    steps are 1, 4, 7 and so on. If that batch is cancelled, the next one is sampled instead. A
    subclass defines its keys with `prefix` and `names`, selects modules with `_watches`, and writes
    rows between `_begin_row` and `_end_row`.

    Args:
        modules: dotted names and types of the modules to watch, or a function of name and module;
            `None` watches all modules that the class supports.
        every: number of training batches per sampled batch.
        buffer_rows: number of rows in the device buffer, which is read back when it is full.

    Raises:
        TypeError: if `modules` is a string, or an entry is neither a name nor a type.
        ValueError: if `every` or `buffer_rows` is less than 1; at the start of the fit, if
            `modules` matches no module of the model.
    """

    order: ClassVar[int] = 20
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True
    prefix: ClassVar[str]
    """The part of a key before the layer."""
    names: ClassVar[tuple[str, ...]]
    """The names of the statistics of a layer."""

    def __init__(
        self, *, modules: Modules | None = None, every: int = 1, buffer_rows: int = 256
    ) -> None:
        if every < 1 or buffer_rows < 1:
            raise ValueError(
                f"every={every} and buffer_rows={buffer_rows} must both be at least 1."
            )
        self.modules, self.every, self.buffer_rows = checked(modules), every, buffer_rows
        self.layers: list[str] = []
        self._watched: list[nn.Module] = []
        self._buffer: RowBuffer | None = None
        self._steps: list[int] = []
        self._ran: list[list[int]] = []
        self._n_drained = 0
        self._window = -1

    def _watches(self, module: nn.Module) -> bool:
        """Returns whether a module is watched if `modules` is `None`."""
        return True

    def _choose(self, model: nn.Module) -> dict[str, nn.Module]:
        return choose_modules(model, self.modules, self._watches)

    def _row_shape(self) -> tuple[int, ...]:
        return (len(self.layers), len(self.names))

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the sampling, without the rows."""
        return {"window": self._window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self._window = state["window"]

    def before_fit(self, learn: Learner) -> None:
        """Chooses the layers and starts a new record."""
        chosen = self._choose(learn.model)
        self.layers, self._watched = list(chosen), list(chosen.values())
        self._buffer = RowBuffer(
            self.buffer_rows, self._row_shape(), learn.device, self._finish_rows
        )
        self._steps, self._ran, self._n_drained, self._window = [], [], 0, -1

    def _is_due(self, learn: Learner) -> bool:
        return learn.training and learn.train_iter // self.every != self._window

    def _begin_row(self) -> Tensor:
        assert self._buffer is not None
        return self._buffer.next_row()

    def _end_row(self, learn: Learner, ran: Iterable[int]) -> None:
        """Counts the row; `ran` holds the indices of the layers with values."""
        assert self._buffer is not None
        self._buffer.commit()
        self._steps.append(learn.train_iter + 1)
        self._ran.append(sorted(ran))
        self._window = learn.train_iter // self.every

    def _finish_rows(self) -> None:
        """Writes rows that were counted before they were complete; called before rows are read.

        Override it in a subclass that writes rows later.
        """

    def _rows(self, start: int = 0) -> Tensor:
        return (
            torch.empty(0, *self._row_shape()) if self._buffer is None else self._buffer.rows(start)
        )

    def drain(self) -> list[tuple[int, dict[str, float]]]:
        """Returns the rows since the last call, as `(train_iter, {"act/LAYER/mean": ...})`.

        A row omits layers that did not run in the batch. The rows are read in one copy from the
        device. The method may be called at any time, also after the fit.
        """
        start, self._n_drained = self._n_drained, len(self._steps)
        values = self._rows(start)[..., : len(self.names)].tolist()
        return [
            (step, self._keyed(ran, row))
            for step, ran, row in zip(self._steps[start:], self._ran[start:], values, strict=True)
        ]

    def _keyed(self, ran: Iterable[int], row: list[list[float]]) -> dict[str, float]:
        keys = {i: f"{self.prefix}/{self.layers[i]}" for i in ran}
        return {
            f"{keys[i]}/{name}": value
            for i in keys
            for name, value in zip(self.names, row[i], strict=True)
        }

    def history(self) -> History:
        """Returns all rows since the start of the fit, drained or not; reads the device."""
        rows = self._rows()
        values = {name: rows[..., i] for i, name in enumerate(self.names)}
        return History(list(self._steps), list(self.layers), values)

    def cleanup_fit(self, learn: Learner) -> None:
        """Reads all rows back and frees the device memory."""
        self._watched = []
        if self._buffer is not None:
            self._buffer.close()
