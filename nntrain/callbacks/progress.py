"""Shows the progress of a fit: one line per epoch, and progress bars on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import IO, TYPE_CHECKING, ClassVar, cast

from nntrain.core.callback import Callback, Purpose
from nntrain.core.streams import SafeStream
from nntrain.metrics import SmoothMean
from nntrain.result import StopReason

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from nntrain.learner import Learner

_FIRST = ("epoch", "train/loss", "valid/loss")
_STOPPED = {
    StopReason.EARLY_STOPPED: "stopped early",
    StopReason.BUDGET: "stopped: out of budget",
}


class Progress(Callback):
    """Prints one line per epoch; on a terminal, also shows progress bars for epochs and batches.

    Lines are printed above the bars. The bars are removed at the end of the fit. The callback
    updates the bars after a batch; it does not use a background thread. The smoothed training loss
    next to the bars is read from the device only when the bars are updated.

    Args:
        interval_s: minimum time between updates of the bars, in seconds; 0 updates them after every
            batch.
        beta: smoothing factor of the training loss, as in `AvgSmoothLoss`.
        console: console to print to; `None` prints to the standard output.

    Raises:
        ValueError: if `interval_s` is negative, or if `beta` is not in [0, 1).
    """

    order: ClassVar[int] = 90
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(
        self, interval_s: float = 0.5, beta: float = 0.98, console: Console | None = None
    ) -> None:
        if interval_s < 0:
            raise ValueError(
                f"interval_s={interval_s} must be at least 0: it is the number of seconds between "
                "updates of the bars."
            )
        self.interval_s, self.beta = interval_s, beta
        self._console = console
        self._smooth_loss = SmoothMean(beta)
        self._columns: list[str] = []
        self._printed: Mapping[str, float] = {}
        self._bars: _Bars | None = None
        self._next_s = 0.0

    @property
    def console(self) -> Console:
        """Console to print to."""
        if self._console is None:
            self._console = _standard_output()
        return self._console

    def before_fit(self, learn: Learner) -> None:
        """Starts a new table; on a terminal, also shows the bars."""
        self._columns, self._smooth_loss = [], SmoothMean(self.beta)
        if self.console.is_interactive:
            self._bars = _Bars(self.console, learn)

    def before_train(self, learn: Learner) -> None:
        """Restarts the bar for the batches."""
        self._begin_part(learn, "train")

    def before_validate(self, learn: Learner) -> None:
        """Restarts the bar for the batches."""
        self._begin_part(learn, "valid")

    def _begin_part(self, learn: Learner, part: str) -> None:
        if self._bars is not None:
            self._bars.begin_part(learn, part)

    def after_loss(self, learn: Learner) -> None:
        """Adds the training loss to the running mean without synchronizing with the device."""
        if self._bars is not None and learn.training:
            self._smooth_loss.add(learn.loss.detach())

    def after_batch(self, learn: Learner) -> None:
        """Updates the bars if the last update was at least `interval_s` seconds ago."""
        if self._bars is None or (now := perf_counter()) < self._next_s:
            return
        self._next_s = now + self.interval_s
        loss = self._smooth_loss.value
        self._bars.move(learn, "" if loss is None else f"loss {_number(float(loss))}")

    def after_epoch(self, learn: Learner) -> None:
        """Prints the metrics of the epoch, below a new header if there are new columns."""
        self._print_row(learn.recorder.row)
        if self._bars is not None:
            self._bars.end_epoch(learn)

    def _print_row(self, row: Mapping[str, float]) -> None:
        cells, self._printed = _cells(row), row
        columns = [name for name in cells if name not in self._columns]
        if columns:
            self._columns = _in_order([*self._columns, *columns])
            self._print(
                _line(self._columns, dict(zip(self._columns, self._columns, strict=True))),
                style="bold",
            )
        self._print(_line(self._columns, cells))

    def after_cancel_fit(self, learn: Learner) -> None:
        """Prints when and why the fit stopped, after any metrics that were not printed yet."""
        row = learn.recorder.row
        if row.get("epoch") == learn.epoch and row is not self._printed:
            self._print_row(row)
        self._print(_farewell(learn))

    def cleanup_fit(self, learn: Learner) -> None:
        """Removes the bars and restores the terminal."""
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.close()

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(
            text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True
        )


class _Bars:
    """Two progress bars: one for epochs, one for batches."""

    def __init__(self, console: Console, learn: Learner) -> None:
        self._bars = _rich_bars(console)
        self._epochs = self._bars.add_task(
            "epoch", total=learn.n_epoch, completed=learn.start_epoch, note=""
        )
        self._batches = self._bars.add_task("train", total=None, note="")
        self._bars.start()

    def begin_part(self, learn: Learner, part: str) -> None:
        """Restarts the bar for the batches."""
        # Create a new task, because `reset` cannot set the total of a task to unknown.
        self._bars.remove_task(self._batches)
        self._batches = self._bars.add_task(
            part, total=learn.n_iter, completed=learn.first_iter, note=""
        )

    def move(self, learn: Learner, note: str) -> None:
        """Updates and redraws both bars."""
        self._bars.update(self._batches, completed=learn.iter + 1, note=note)
        self._bars.refresh()

    def end_epoch(self, learn: Learner) -> None:
        """Advances the bar for the epochs."""
        self._bars.update(self._epochs, completed=learn.epoch + 1)

    def close(self) -> None:
        """Removes the bars from the screen."""
        self._bars.stop()


def _standard_output() -> Console:
    from rich.console import Console

    return Console(file=cast("IO[str]", SafeStream(lambda: sys.stdout)))


def _rich_bars(console: Console) -> RichProgress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:5}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        # Do not start a refresh thread. If the thread held a lock while a DataLoader forks its
        # workers, the workers would hang.
        auto_refresh=False,
    )


def _in_order(columns: Sequence[str]) -> list[str]:
    named = [name for name in columns if name not in (*_FIRST, "time")]
    return [name for name in _FIRST if name in columns] + named + ["time"]


def _cells(row: Mapping[str, float]) -> dict[str, str]:
    cells = {name: _number(value) for name, value in row.items() if not name.startswith("time/")}
    return cells | {"epoch": f"{row['epoch']:.0f}", "time": _duration(row["time/epoch_s"])}


def _line(columns: Sequence[str], cells: Mapping[str, str]) -> str:
    return "  ".join(cells.get(name, "").rjust(_width(name)) for name in columns).rstrip()


def _width(name: str) -> int:
    return {"epoch": 5, "time": 7}.get(name, max(len(name), 10))


def _number(value: float) -> str:
    plain = value == 0 or 1e-4 <= abs(value) < 1e6 or value != value or abs(value) == float("inf")
    return f"{value:.6f}" if plain else f"{value:.3e}"


def _duration(seconds: float) -> str:
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _farewell(learn: Learner) -> str:
    result = learn.result
    words = _STOPPED.get(result.reason, result.reason.value.replace("_", " "))
    finished = learn.recorder.row.get("epoch") == learn.epoch
    place = f"after epoch {learn.epoch}" if finished else f"in epoch {learn.epoch}"
    return f"{words} {place}" + (f": {result.message}" if result.message else "")
