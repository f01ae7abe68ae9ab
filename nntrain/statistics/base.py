"""What all statistics by layer share: which batches are sampled, where the rows are kept and how they are read."""

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
    """All that was recorded in a fit; a layer that did not run has NaN.

    `steps` are the `train_iter` of the rows, `layers` the names of the columns, and `values` has for each statistic a
    tensor `(steps, layers)`, float32, on the CPU.
    """

    steps: list[int]
    layers: list[str]
    values: Mapping[str, Tensor]


class Statistics(Callback):
    """Numbers by layer for some of the training batches; the base of nntrain's own and of yours.

    `drain` gives the new rows to whoever ships them, `history` all of them. The step of a row is `learn.train_iter` as
    it is after the batch: 1 for the first one. Of each `every` batches the first that gets so far is taken, so with
    `every=3` steps 1, 4, 7 and so on; a batch that is cancelled hands its turn on to the next. A subclass says in
    `prefix` and `names` what its keys are, in `_watches` which modules it is made for, and writes rows between
    `_begin_row` and `_end_row`.

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
    only_watches: ClassVar[bool] = True
    prefix: ClassVar[str]
    """What stands before the layer in a key."""
    names: ClassVar[tuple[str, ...]]
    """The statistics of one layer."""

    def __init__(
        self, *, modules: Modules | None = None, every: int = 1, buffer_rows: int = 256
    ) -> None:
        if every < 1 or buffer_rows < 1:
            raise ValueError(
                f"every and buffer_rows must be at least 1 but are {every} and {buffer_rows}."
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
        """Whether a module is watched where `modules` says nothing."""
        return True

    def _choose(self, model: nn.Module) -> dict[str, nn.Module]:
        return choose_modules(model, self.modules, self._watches)

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
        """Counts the row; `ran` are the indices of the layers that it has values for."""
        assert self._buffer is not None
        self._buffer.commit()
        self._steps.append(learn.train_iter + 1)
        self._ran.append(sorted(ran))
        self._window = learn.train_iter // self.every

    def _finish_rows(self) -> None:
        """For a subclass that counts rows before it has written them: writes the rest; called before any are read."""

    def _rows(self, start: int = 0) -> Tensor:
        return (
            torch.empty(0, *self._row_shape()) if self._buffer is None else self._buffer.rows(start)
        )

    def drain(self) -> list[tuple[int, dict[str, float]]]:
        """The rows since the last call, as `(train_iter, {"act/LAYER/mean": ...})`, in one copy from the device.

        A layer that did not run in a batch is left out of its row. It may be called at any time, also after the fit.
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
        """Everything since the fit began, whether drained or not; this reads the device."""
        rows = self._rows()
        values = {name: rows[..., i] for i, name in enumerate(self.names)}
        return History(list(self._steps), list(self.layers), values)

    def cleanup_fit(self, learn: Learner) -> None:
        """Reads everything back and frees the device's memory."""
        self._watched = []
        if self._buffer is not None:
            self._buffer.close()
