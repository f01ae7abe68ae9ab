"""The log of a run: checks metrics, figures, tables and files, and passes them to a sink.

`learn.tracker` is a `RunLog`. `nntrain.track` returns a different subclass of `CheckedLog`.
"""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from nntrain.core.callback import Purpose
from nntrain.core.log_checks import (
    cell,
    check_aliases,
    check_columns,
    described,
    file_fault,
    number,
    table_fault,
    whole_step,
)
from nntrain.core.names import check_file_name, check_metric_name

if TYPE_CHECKING:
    from torch import Tensor

    from nntrain.learner import Learner

_LOG = logging.getLogger("nntrain")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Image formats that every tracker can display."""

Cell: TypeAlias = str | float | None
"""The value of a table cell. Integers and booleans are allowed, too."""


@runtime_checkable
class Figure(Protocol):
    """An object that can be saved as an image, such as a matplotlib figure."""

    def savefig(self, fname: Any, **kwargs: Any) -> Any:
        """Writes the image."""


class Sink(Protocol):
    """Records checked values. Methods raise `OSError` if a file cannot be written."""

    @property
    def is_open(self) -> bool:
        """Whether the run is still active. Nothing is recorded after the run has ended."""

    def metrics(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """Records numbers and scalar tensors; the tensors are copies and still on their device."""

    def figure(self, figure: Figure, name: str, step: int) -> None:
        """Records a figure as an image."""

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
    ) -> None:
        """Records a table."""

    def artifact(self, path: Path, name: str, aliases: Sequence[str]) -> None:
        """Records a copy of a file."""


class CheckedLog(ABC):
    """Checks metrics, figures, tables and files, and passes them to a sink.

    An invalid name raises an exception immediately. An invalid value never interrupts training:
    the logger `nntrain` prints one warning per name, and `refused` counts the rejected values.

    Args:
        sink: records the valid values; `None` discards them.
    """

    LABEL: ClassVar[str] = "log"
    """The name of this object in messages."""
    ENDED: ClassVar[str] = "log before the run ends"
    """Advice for the warning about logging after the end of the run."""

    def __init__(self, sink: Sink | None = None) -> None:
        self.refused: Counter[str] = Counter()
        """The number of rejected values for each name."""
        self._sink = sink
        self._known: set[str] = set()
        self._warned: set[str] = set()
        self._has_warned_of_end = False

    def log_metrics(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """Records the values of metrics at one step. NaN and infinity are allowed.

        Tensors must have one element. They are copied immediately, so you can modify them after the
        call, but they are not read from the device until later.

        Args:
            values: maps names to numbers, for example `{"mem/peak_gib": 1.5}`.
            step: the step, from 0 to 2**63 - 1. Steps may repeat or decrease.

        Raises:
            TypeError: if `values` is not a mapping.
            ValueError: if a tracker would reject a name. None of the values are recorded in this
                case.
        """
        if not isinstance(values, Mapping):
            raise TypeError(
                "log_metrics expects a mapping from names to values, for example {'loss': 0.5}, "
                f"but got {values!r}."
            )
        for name in values:
            self._check(name)
        at = whole_step(step)
        if at is None:
            why = f"its step, {described(step)}, is not an integer from 0 to 2**63 - 1"
            self._refuse(values, why)
        elif kept := self._numbers(values):
            self._record_metrics(kept, at)

    def log_figure(self, figure: Figure, name: str, step: int | None = None) -> None:
        """Records a matplotlib figure as an image.

        Args:
            figure: the figure.
            name: a relative path that ends in `.png`, `.jpg` or `.jpeg`, such as `plots/loss.png`.
            step: the step; `None` uses the current step.

        Raises:
            TypeError: if `name` and `figure` are swapped.
            ValueError: if a tracker would reject the name.
        """
        if isinstance(figure, str):
            raise TypeError(
                "log_figure expects the figure first: log_figure(figure, 'plots/mine.png')."
            )
        _check_image_name(name)
        at = self._step(step)
        if not isinstance(figure, Figure):
            self._refuse([name], f"the value, {described(figure)}, is not a matplotlib figure")
        elif at is None:
            self._refuse_step(name, step)
        elif (sink := self._open_sink()) is not None:
            with self._refusing_unwritable(name):
                sink.figure(figure, name, at)

    def log_table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Iterable[Any]],
        step: int | None = None,
    ) -> None:
        """Records a table of numbers and strings; `None` is an empty cell.

        Args:
            name: the name of the table, a relative path.
            columns: the names of the columns.
            rows: the rows; each row has one cell per column.
            step: the step; `None` uses the current step.

        Raises:
            ValueError: if a tracker would reject the name, or the column names are not unique
                strings.
        """
        check_file_name(name, "Table")
        check_columns(name, columns)
        cells = [[cell(one) for one in row] for row in rows]
        at = self._step(step)
        if (fault := table_fault(columns, cells)) is not None:
            self._refuse([name], fault)
        elif at is None:
            self._refuse_step(name, step)
        elif (sink := self._open_sink()) is not None:
            sink.table(name, list(columns), cells, at)

    def log_artifact(
        self, path: str | Path, name: str | None = None, aliases: Sequence[str] = ()
    ) -> None:
        """Records a copy of a file. A missing file or a folder is treated as an invalid value.

        Args:
            path: the file.
            name: the name in the tracker, for example `reports/confusion.csv`; `None` uses the
                name of the file.
            aliases: labels for this version of the file, for example `["best"]`.

        Raises:
            ValueError: if a tracker would reject the name or an alias.
        """
        file, name = self._checked_file(path, name, aliases)
        if (sink := self._sink_for(file, name)) is not None:
            with self._refusing_unwritable(name):
                sink.artifact(file, name, tuple(aliases))

    # --- for subclasses

    @abstractmethod
    def _current_step(self) -> int:
        """Returns the default step of figures and tables."""

    def _records(self) -> bool:
        """Returns whether logged values are currently recorded."""
        return True

    def _record_metrics(self, values: Mapping[str, float | Tensor], step: int) -> None:
        if (sink := self._open_sink()) is not None:
            sink.metrics(values, step)

    # --- checks

    def _step(self, step: int | None) -> int | None:
        return self._current_step() if step is None else whole_step(step)

    def _open_sink(self) -> Sink | None:
        sink = self._sink if self._records() else None
        if sink is None or sink.is_open:
            return sink
        if not self._has_warned_of_end:
            self._has_warned_of_end = True
            _LOG.warning("Not recorded because the run has ended: %s.", self.ENDED)
        return None

    def _checked_file(
        self, path: str | Path, name: str | None, aliases: Sequence[str]
    ) -> tuple[Path, str]:
        file = Path(path)
        name = file.name if name is None else name
        check_file_name(name, "Artifact")
        check_aliases(aliases)
        return file, name

    def _sink_for(self, file: Path, name: str) -> Sink | None:
        if (fault := file_fault(file)) is None:
            return self._open_sink()
        self._refuse([name], fault)
        return None

    def _check(self, name: str) -> None:
        if name not in self._known:
            check_metric_name(name)
            self._known.add(name)

    def _numbers(self, values: Mapping[str, object]) -> dict[str, float | Tensor]:
        kept: dict[str, float | Tensor] = {}
        for name, value in values.items():
            if (one := number(value)) is None:
                why = f"its value, {described(value)}, cannot be converted to a float"
                self._refuse([name], why)
            else:
                kept[name] = one
        return kept

    @contextmanager
    def _refusing_unwritable(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as err:  # a full disk must not stop the training
            self._refuse([name], f"it cannot be written ({err})")

    def _refuse_step(self, name: str, step: object) -> None:
        self._refuse([name], f"its step, {described(step)}, is not an integer from 0 to 2**63 - 1")

    def _refuse(self, names: Iterable[str], why: str) -> None:
        names = list(names)
        if self._records():
            self.refused.update(names)
        new = [name for name in names if name not in self._warned]
        self._warned.update(new)
        if new:
            quoted = ", ".join(map(repr, new))
            _LOG.warning(
                "%s: not recorded because %s. "
                "Further values are counted in %s.refused without a warning.",
                quoted,
                why,
                self.LABEL,
            )


class RunLog(CheckedLog):
    """The log of a Learner, available as `learn.tracker`.

    Names and values are always checked, even without a tracker, so that mistakes are found early.
    They are only recorded during a fit, not in `validate`, `get_preds` or `lr_find`.

    Args:
        learn: the Learner. The log stores a weak reference, so it does not keep the Learner alive.
        sink: records the valid values; `None` discards them.
    """

    LABEL = "learn.tracker"
    ENDED = "log in after_fit or earlier"

    def __init__(self, learn: Learner, sink: Sink | None = None) -> None:
        super().__init__(sink)
        self._learn_ref = weakref.ref(learn)

    def log_metrics(self, values: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Records the values of metrics at one step; see `CheckedLog.log_metrics`.

        The default step is `learn.train_iter`, the number of training batches so far.
        """
        super().log_metrics(values, self._current_step() if step is None else step)

    def _current_step(self) -> int:
        return self._learn().train_iter

    def _records(self) -> bool:
        return self._learn().purpose is Purpose.FIT

    def _learn(self) -> Learner:
        learn = self._learn_ref()
        if learn is None:
            raise RuntimeError(
                "The Learner of this log was deleted: keep a reference to it while you log."
            )
        return learn

    def __getstate__(self) -> dict[str, Any]:
        # The log of a copied Learner must refer to the copy.
        return vars(self) | {"_learn_ref": self._learn()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_learn_ref": weakref.ref(state["_learn_ref"])})


def _check_image_name(name: str) -> None:
    check_file_name(name, "Figure")
    if not name.lower().endswith(IMAGE_SUFFIXES):
        raise ValueError(
            f"Figure name {name!r} must end in .png, .jpg or .jpeg: "
            f"rename it, for example to {name + '.png'!r}."
        )
