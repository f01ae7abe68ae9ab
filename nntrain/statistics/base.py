"""Base class for callbacks that record per-layer statistics."""

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
    """All statistics recorded in a fit.

    `steps` contains the `train_iter` of each row, and `layers` the layer name of each column.
    `values` maps each statistic to a float32 tensor `(steps, layers)` on the CPU. NaN means that
    the layer did not run.
    """

    steps: list[int]
    layers: list[str]
    values: Mapping[str, Tensor]


class Statistics(Callback):
    """Base class for callbacks that record per-layer statistics of sampled training batches.

    `drain` returns the new rows, and `history` returns all rows. The step of a row is
    `learn.train_iter` after the batch, so the first batch has step 1. The first of every `every`
    batches is sampled: with `every=3`, the steps are 1, 4, 7 and so on. If a sampled batch is
    cancelled, the next batch is sampled instead. Subclasses define the metric keys with `prefix`
    and `names`, select modules with `_watches`, and write each row between `_begin_row` and
    `_end_row`.

    Args:
        modules: modules to watch: a list of dotted names and module types, or a function of name
            and module that returns whether to watch the module. `None` watches all supported
            modules.
        every: sampling interval, in training batches.
        buffer_rows: number of rows in the device buffer. A full buffer is copied to the CPU.

    Raises:
        TypeError: if `modules` is a string, or if an entry is neither a name nor a type.
        ValueError: if `every` or `buffer_rows` is less than 1; at the start of the fit, if
            `modules` matches no module of the model.
    """

    order: ClassVar[int] = 20
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True
    prefix: ClassVar[str]
    """The prefix of the keys, before the name of the layer."""
    names: ClassVar[tuple[str, ...]]
    """The names of the statistics that are recorded for each layer."""

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
        """Returns whether to watch a module by default, that is, if `modules` is `None`."""
        return True

    def _choose(self, model: nn.Module) -> dict[str, nn.Module]:
        return choose_modules(model, self.modules, self._watches)

    def _row_shape(self) -> tuple[int, ...]:
        return (len(self.layers), len(self.names))

    def state_dict(self) -> dict[str, Any]:
        """Returns the sampling position; recorded rows are not part of the state."""
        return {"window": self._window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self._window = state["window"]

    def before_fit(self, learn: Learner) -> None:
        """Selects the layers and clears the recorded rows."""
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
        """Commits the row; `ran` contains the indices of the layers that ran."""
        assert self._buffer is not None
        self._buffer.commit()
        self._steps.append(learn.train_iter + 1)
        self._ran.append(sorted(ran))
        self._window = learn.train_iter // self.every

    def _finish_rows(self) -> None:
        """Called before rows are read, to fill rows that were committed before they were complete.

        Override it in a subclass that fills rows later.
        """

    def _rows(self, start: int = 0) -> Tensor:
        return (
            torch.empty(0, *self._row_shape()) if self._buffer is None else self._buffer.rows(start)
        )

    def drain(self) -> list[tuple[int, dict[str, float]]]:
        """Returns the rows since the last call, as `(train_iter, {"act/LAYER/mean": value})`.

        Layers that did not run in a batch are omitted from its row. All rows are copied from the
        device in one transfer. `drain` can be called at any time, even after the fit.
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
        """Returns all rows of the fit, including drained rows; copies new rows from the device."""
        rows = self._rows()
        values = {name: rows[..., i] for i, name in enumerate(self.names)}
        return History(list(self._steps), list(self.layers), values)

    def cleanup_fit(self, learn: Learner) -> None:
        """Copies all rows to the CPU and frees the device memory."""
        self._watched = []
        if self._buffer is not None:
            self._buffer.close()
