"""What is seen of a sweep while it runs: a table in a terminal, a line for each trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nntrain.sweeps.report.savings import saved_s
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.outcome import FAILURES
from nntrain.sweeps.study.trials import MESSAGE, OUTCOME, OVERRIDES, counted, folder_of
from nntrain.sweeps.workers.worker import TRACEBACK
from nntrain.sweeps.workers.worker_main import LOG

MAX_RUNNING = 12
"""Running trials that the table shows; the others are counted."""

TRACEBACK_LINES = 4


class LiveTable:
    """Shows the trials of a study as they come and go; a context.

    Args:
        plan: what the sweep is to do.
        in_terminal: whether there is a table that is drawn again and again; else each trial that ends is a line.
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

    def look(self, trials: Sequence[FrozenTrial]) -> None:
        """Shows what is new."""
        ended = [trial for trial in trials if trial.state.is_finished()]
        if self._known is None:  # what was there before this sweep is not news
            self._known = {trial.number for trial in ended}
            self._n_before = len(self._known)
        for trial in ended:
            if trial.number not in self._known:
                self._known.add(trial.number)
                self._tell(trial, trials)
        if self._live is not None:
            self._live.update(self._table(trials), refresh=True)

    # --- one trial that has ended

    def _tell(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
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

    # --- all of them

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
                str(trial.number), str(step or ""), value, _clock(_age_s(trial)), _chosen(trial)
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
    """The same to look at, with four digits of each number."""
    values = (
        (name, f"{value:.4g}" if isinstance(value, float) else value)
        for name, value in trial.params.items()
    )
    return " ".join(f"{name}={value}" for name, value in values)


def _age_s(trial: FrozenTrial) -> float:
    return (
        0.0
        if trial.datetime_start is None
        else (datetime.now() - trial.datetime_start).total_seconds()
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def best_trials(plan: SweepPlan, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The best of the completed trials; with several objectives those that no other one beats in all."""
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    signs = [
        1 if StudyDirection[direction.upper()] is StudyDirection.MINIMIZE else -1
        for direction in plan.directions
    ]
    costs = {
        trial.number: [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        for trial in done
    }
    if len(signs) == 1:
        return [min(done, key=lambda trial: (costs[trial.number], trial.number))] if done else []
    return [
        one
        for one in done
        if not any(_beats(costs[other.number], costs[one.number]) for other in done)
    ]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return list(one) != list(other) and all(
        mine <= theirs for mine, theirs in zip(one, other, strict=True)
    )


def best_text(plan: SweepPlan, trials: Sequence[FrozenTrial]) -> str:
    """The best value so far and its trial; with several objectives how many there are; nothing before the first."""
    best = best_trials(plan, trials)
    if not best:
        return ""
    if len(plan.directions) > 1:
        return f"{len(best)} trial{'s' * (len(best) != 1)} that no other one beats"
    return f"{best[0].values[0]:.6g} (trial {best[0].number})"
