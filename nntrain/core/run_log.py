"""What a user's own callbacks log to: `learn.tracker.log_metrics({"mem/peak_gib": 1.5})`, whether the run is tracked or not."""

from __future__ import annotations

import logging
import re
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nntrain.core.callback import Purpose
from nntrain.core.names import check_file_name, check_metric_name

if TYPE_CHECKING:
    from nntrain.learner import Learner

_LOG = logging.getLogger("nntrain")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""How the name of a figure may end: the images that every tracker shows."""

Cell: TypeAlias = str | float | None
"""What a cell of a table holds; `float` stands for whole numbers and booleans too."""

_MAX_STEP = 2**63 - 1


@runtime_checkable
class Figure(Protocol):
    """What can be saved as an image: matplotlib's `Figure`."""

    def savefig(self, fname: Any, **kwargs: Any) -> Any:
        """Writes the image."""


class RunLog:
    """Takes metrics, figures, tables and files for the run in progress, and never waits for the device or the disk.

    This one belongs to a Learner that no tracker records: it keeps nothing, but checks all that it is given, so that a
    mistake shows before the run that matters. A name that a tracker would not take raises at once. A value that it would
    not take never ends the training: it is warned of through the logger `nntrain`, once for each name, and counted in
    `refused`. In `validate`, `lr_find` and the like, what is logged is checked and neither recorded nor counted.

    Args:
        learn: the Learner that it belongs to; it is referred to weakly, so that a Learner no longer used frees its memory.
    """

    def __init__(self, learn: Learner) -> None:
        self.refused: Counter[str] = Counter()
        """How many values, by name, were not recorded because no tracker takes them."""
        self._learn_ref = weakref.ref(learn)
        self._known: set[str] = set()
        self._warned: set[str] = set()

    def log_metrics(self, values: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Records numbers that belong to one step; nan and the infinities are numbers.

        A tensor must have one element. It is copied on its device and read later, so it may be written to afterwards.

        Args:
            values: numbers by name, such as `{"mem/peak_gib": 1.5}`.
            step: from 0 to 2**63 - 1; it may repeat and go back. `None` takes `learn.train_iter`, the training batches seen
                so far.

        Raises:
            ValueError: if a name is one that a tracker would refuse; nothing of the call is recorded then.
        """
        for name in values:
            self._check(name)
        at = _whole(self._learn().train_iter if step is None else step)
        if at is None:
            self._refuse(
                values, f"its step, {_described(step)}, is no whole number from 0 to 2**63 - 1"
            )
            return
        kept = self._numbers(values)
        if kept and self._records():
            self._metrics(kept, at)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Keeps a matplotlib figure as an image of that name, such as `plots/loss.png`.

        Raises:
            TypeError: if the name comes before the figure.
            ValueError: if the name ends in none of `.png`, `.jpg` and `.jpeg`, or is one that a tracker would refuse.
        """
        if isinstance(figure, str):
            raise TypeError(
                "log_figure takes the figure before its name: log_figure(figure, 'plots/mine.png')."
            )
        check_file_name(name, "Figure")
        if not name.lower().endswith(IMAGE_SUFFIXES):
            raise ValueError(
                f"Figure name {name!r} must end in .png, .jpg or .jpeg: name it, for example, {name + '.png'!r}."
            )
        if not isinstance(figure, Figure):
            self._refuse([name], f"what was given, {_described(figure)}, is no matplotlib figure")
        elif self._records():
            self._figure(figure, name, self._learn().train_iter)

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
        """Keeps a table of numbers and strings; a cell may be empty, `None`.

        Raises:
            ValueError: if the name is one that a tracker would refuse, or `columns` are not different strings.
        """
        check_file_name(name, "Table")
        _check_columns(name, columns)
        cells = [[_cell(cell) for cell in row] for row in rows]
        fault = _table_fault(columns, cells)
        if fault is not None:
            self._refuse([name], fault)
        elif self._records():
            self._table(name, list(columns), cells, self._learn().train_iter)

    def log_artifact(
        self, path: str | Path, name: str | None = None, aliases: Sequence[str] = ()
    ) -> None:
        """Keeps a file, as it is now; one that is not there, and a folder, are warned of and counted as a bad value is.

        Args:
            path: where it is.
            name: what to keep it as, such as `reports/confusion.csv`; `None` takes the file's own name.
            aliases: names by which this version is found, such as `["best"]`.

        Raises:
            ValueError: if the name or an alias is one that a tracker would refuse.
        """
        file = Path(path)
        check_file_name(file.name if name is None else name, "Artifact")
        _check_aliases(aliases)
        name = file.name if name is None else name
        if (fault := _file_fault(file)) is not None:
            self._refuse([name], fault)
        elif self._records():
            self._artifact(file, name, tuple(aliases))

    # --- what a tracked run overrides

    def _metrics(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """Records checked values: floats, and tensors without axes that are on their device and belong to nobody else."""

    def _figure(self, figure: Figure, name: str, step: int) -> None:
        """Keeps a figure under a checked name."""

    def _table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
    ) -> None:
        """Keeps a checked table."""

    def _artifact(self, path: Path, name: str, aliases: Sequence[str]) -> None:
        """Keeps a file that exists under a checked name."""

    # --- checks

    def _learn(self) -> Learner:
        learn = self._learn_ref()
        if learn is None:
            raise RuntimeError(
                "The Learner to which this tracker belongs is gone: keep it as long as you log."
            )
        return learn

    def _records(self) -> bool:
        return self._learn().purpose is Purpose.FIT

    def _check(self, name: str) -> None:
        if name not in self._known:
            check_metric_name(name)
            self._known.add(name)

    def _numbers(self, values: Mapping[str, object]) -> dict[str, float | Tensor]:
        kept: dict[str, float | Tensor] = {}
        for name, value in values.items():
            number = _number(value)
            if number is None:
                self._refuse(
                    [name],
                    f"its value, {_described(value)}, is not one number that a float can hold",
                )
            else:
                kept[name] = number
        return kept

    def _refuse(self, names: Iterable[str], why: str) -> None:
        names = list(names)
        if self._records():
            self.refused.update(names)
        new = [name for name in names if name not in self._warned]
        self._warned.update(new)
        if new:
            quoted = ", ".join(map(repr, new))
            _LOG.warning(
                "%s: not recorded, since %s; more of it will only be counted, in learn.tracker.refused.",
                quoted,
                why,
            )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {
            "_learn_ref": self._learn()
        }  # a copy belongs to the copy of the Learner

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_learn_ref": weakref.ref(state["_learn_ref"])})


def _number(value: object) -> float | Tensor | None:
    if isinstance(value, Tensor):
        return value.detach().reshape(()).clone() if _is_scalar(value) else None
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 and value.dtype.kind in "biuf" else None
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:
        return None


def _is_scalar(value: Tensor) -> bool:
    return (
        value.layout is torch.strided
        and value.numel() == 1
        and not (value.is_complex() or value.is_meta)
    )


def _described(value: object) -> str:
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    return f"of type {type(value).__name__}{shape}"


def _whole(step: object) -> int | None:
    if isinstance(step, Integral) and not isinstance(step, bool) and 0 <= int(step) <= _MAX_STEP:
        return int(step)
    return None


def _cell(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _check_columns(name: str, columns: Sequence[str]) -> None:
    strings = not isinstance(columns, str) and all(isinstance(column, str) for column in columns)
    if not strings or len(set(columns)) != len(columns):
        raise ValueError(
            f"The columns {columns!r} of table {name!r} must be a list of different strings: name each one."
        )


def _table_fault(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str | None:
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            return f"row {i} has {len(row)} cells, and there are {len(columns)} columns"
        for column, cell in zip(columns, row, strict=True):
            if not isinstance(cell, str | int | float | None):
                return f"column {column!r} of row {i} holds a value {_described(cell)}, and a cell is a number or a string"
    return None


def _check_aliases(aliases: Sequence[str]) -> None:
    if isinstance(aliases, str) or not all(
        isinstance(alias, str) and re.fullmatch(r"[\w\-.]+", alias) for alias in aliases
    ):
        raise ValueError(
            f"aliases={aliases!r} must be a list of names of letters, digits, underscores, dashes and periods: give ['best']."
        )


def _file_fault(file: Path) -> str | None:
    if file.is_dir():
        return f"{file} is a folder and an artifact is a file: log its files one by one, or pack them into one"
    return None if file.is_file() else f"there is no file {file}: write it before it is logged"
