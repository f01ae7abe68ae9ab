"""Shows the progress of a sweep: a live table in a terminal, or one line per finished trial."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nntrain.sweeps.report.best import best_text
from nntrain.sweeps.report.savings import saved_s
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.outcome import FAILURES
from nntrain.sweeps.study.trials import (
    LOG,
    MESSAGE,
    OUTCOME,
    OVERRIDES,
    TRACEBACK,
    age_s,
    counted,
    folder_of,
)

MAX_RUNNING = 12
"""The maximum number of running trials in the table; the table only counts the others."""

TRACEBACK_LINES = 4


class LiveTable:
    """A context manager that shows the trials of a study while they run.

    Args:
        plan: the plan of the sweep.
        in_terminal: `True` shows a live table, and `False` prints one line per finished trial.
            `None` shows the table only if stderr is a terminal.
    """

    def __init__(self, plan: SweepPlan, in_terminal: bool | None = None) -> None:
        self.plan = plan
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        is_terminal = self._console.is_terminal if in_terminal is None else in_terminal
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if is_terminal else None
        )
        self._began = time.monotonic()
        self._known: set[int] | None = None
        self._n_before = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Shows the changes since the last call."""
        ended = [trial for trial in trials if trial.state.is_finished()]
        if self._known is None:  # first call: do not show the trials of earlier commands
            self._known = {trial.number for trial in ended}
            self._n_before = len(self._known)
        for trial in ended:
            if trial.number not in self._known:
                self._known.add(trial.number)
                self._show(trial, trials)
        if self._live is not None:
            self._live.update(self._table(trials), refresh=True)

    # --- one finished trial

    def _show(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
        outcome = trial.user_attrs.get(OUTCOME, trial.state.name.lower())
        if trial.state is TrialState.FAIL and outcome in FAILURES | {"out_of_memory"}:
            self._print(self._failure(trial, outcome))
        elif self._live is None:
            self._print(
                f"trial {trial.number} {self._result(trial, outcome)}; {self._progress(trials)}"
            )

    def _result(self, trial: FrozenTrial, outcome: str) -> str:
        values = ", ".join(f"{value:.6g}" for value in trial.values or ())
        step = (
            f" at step {trial.last_step}"
            if trial.state is TrialState.PRUNED and trial.last_step is not None
            else ""
        )
        return f"{outcome}{step}{': ' + values if values else ''} ({_chosen(trial)})"

    def _failure(self, trial: FrozenTrial, outcome: str) -> str:
        lines = [
            f"trial {trial.number} failed ({outcome}): {trial.user_attrs.get(MESSAGE, '')}",
            f"  {_overrides(trial)}",
        ]
        lines += [
            f"  {line}"
            for line in trial.user_attrs.get(TRACEBACK, "").splitlines()[-TRACEBACK_LINES:]
        ]
        folder = folder_of(self.plan.folder, trial.number)
        return "\n".join([*lines, f"  log: {folder / LOG if (folder / LOG).exists() else folder}"])

    def _print(self, text: str) -> None:
        self._console.print(Text(text))

    # --- all trials

    def _progress(self, trials: Sequence[FrozenTrial]) -> str:
        n_ended = sum(trial.state.is_finished() for trial in counted(trials))
        best = best_text(self.plan, trials)
        return f"{n_ended}/{self.plan.n_trials}" + (f", best {best}" if best else "")

    def _table(self, trials: Sequence[FrozenTrial]) -> Group:
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        table = Table(box=None, pad_edge=False)
        for name in (
            "trial",
            "step",
            self.plan.monitor or ", ".join(self.plan.objectives) or "value",
            "time",
            "",
        ):
            table.add_column(name, justify="right" if name else "left")
        for trial in running[:MAX_RUNNING]:
            step = trial.last_step
            value = "" if step is None else f"{trial.intermediate_values[step]:.6g}"
            table.add_row(
                str(trial.number), str(step or ""), value, _clock(age_s(trial)), _chosen(trial)
            )
        more = (
            [Text(f"and {len(running) - MAX_RUNNING} more")] if len(running) > MAX_RUNNING else []
        )
        return Group(table, *more, Text(self._counts(trials)), Text(self._estimates(trials)))

    def _counts(self, trials: Sequence[FrozenTrial]) -> str:
        mine = counted(trials)
        states = Counter(trial.state for trial in mine)
        parts = [
            f"{states[TrialState.COMPLETE]} completed",
            f"{states[TrialState.PRUNED]} pruned",
            f"{states[TrialState.FAIL]} failed",
            f"{states[TrialState.RUNNING]} running",
        ]
        return f"{', '.join(parts)}, of {self.plan.n_trials}"

    def _estimates(self, trials: Sequence[FrozenTrial]) -> str:
        best, parts = best_text(self.plan, trials), []
        if best:
            parts.append(f"best {best}")
        if saved := saved_s(trials):
            parts.append(f"{_clock(saved)} saved by pruning")
        if (left := self._left_s(counted(trials))) is not None:
            parts.append(f"{_clock(left)} left")
        return ", ".join(parts)

    def _left_s(self, mine: Sequence[FrozenTrial]) -> float | None:
        n_ended = sum(trial.state.is_finished() for trial in mine)
        n_new = n_ended - self._n_before
        if n_new < 1:
            return None
        return (time.monotonic() - self._began) / n_new * max(self.plan.n_trials - n_ended, 0)


def _overrides(trial: FrozenTrial) -> str:
    return " ".join(trial.user_attrs.get(OVERRIDES, ()))


def _chosen(trial: FrozenTrial) -> str:
    """Returns the parameters of a trial as a string; floats have four significant digits."""
    values = (
        (name, f"{value:.4g}" if isinstance(value, float) else value)
        for name, value in trial.params.items()
    )
    return " ".join(f"{name}={value}" for name, value in values)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
