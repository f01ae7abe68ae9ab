"""A sweep from its beginning to its end: the study opened, its trials run by workers, what they found written down."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from nntrain.core.events import reason_of
from nntrain.result import StopReason
from nntrain.sweeps.callbacks import StudyCallback, SweepEnd
from nntrain.sweeps.report.html import write_report
from nntrain.sweeps.report.live import LiveTable, best_trials
from nntrain.sweeps.report.results import final_table, write_best, write_results
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.opening import begin, open_study
from nntrain.sweeps.study.policy import failures, has_failed
from nntrain.sweeps.study.pruner import end_reports
from nntrain.sweeps.study.storage import STORAGE_ERRORS, lost_storage
from nntrain.sweeps.study.trials import SweepStudy, repair
from nntrain.sweeps.workers.hydra_launcher import Launch, has_other_launcher
from nntrain.sweeps.workers.hydra_state import taken
from nntrain.sweeps.workers.supervisor import Supervisor, packed
from nntrain.sweeps.workers.worker import Worker

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass
class Sweep:
    """A sweep that is to be run.

    Args:
        plan: what it is to do.
        task_function: the user's job.
        hydra_context: Hydra's.
        config: the configuration that each trial's overrides change.
        slots: the environment of each worker; there are as many workers.
        trial_timeout_s: seconds after which a trial is killed.
        callbacks: what acts round the trials.
    """

    plan: SweepPlan
    task_function: TaskFunction
    hydra_context: HydraContext
    config: DictConfig
    slots: Sequence[Mapping[str, str]]
    trial_timeout_s: float | None = None
    callbacks: Sequence[StudyCallback] = ()
    signum: int | None = field(default=None, init=False)

    def run(self) -> int:
        """Runs the trials and writes the results; returns the exit code of the process.

        Raises:
            SweepError: if the storage does not answer any more.
        """
        try:
            return self._run()
        except STORAGE_ERRORS as err:
            raise lost_storage(self.plan.storage, err) from err

    def _run(self) -> int:
        study, storage = open_study(self.plan)
        begin(study, self.plan)
        self._repair(study, storage)
        for callback in self.callbacks:
            callback.before_sweep(study, self.plan)
        n_before = len(study.get_trials(deepcopy=False))
        try:
            self._trials(study, storage)
        finally:
            end = self._end(study, sys.exception())
            try:
                self._repair(study, storage)
            finally:
                self._finish(study, end, n_before)
        return self._exit_code(study)

    def _repair(self, study: SweepStudy, storage: BaseStorage) -> None:
        repair(study, storage)
        end_reports(self.plan, study, storage)

    def _trials(self, study: SweepStudy, storage: BaseStorage) -> None:
        with LiveTable(self.plan) as table:
            table.look(study.get_trials(deepcopy=False))
            if self._is_in_foreground():
                worker = Worker(
                    self.plan,
                    self.task_function,
                    self.hydra_context,
                    self.config,
                    after_trial=table.look,
                )
                self._run_all(worker)
            else:
                self._run_all(self._workers(study, storage, table.look))
            table.look(study.get_trials(deepcopy=False))

    def _workers(
        self, study: SweepStudy, storage: BaseStorage, look: Callable[[Sequence[FrozenTrial]], None]
    ) -> Supervisor | Launch:
        """Workers as processes of this machine, or as the jobs of another Hydra launcher."""
        began = time.time()
        work = packed(
            state=taken(),
            plan=self.plan,
            task_function=self.task_function,
            hydra_context=self.hydra_context,
            config=self.config,
            began=began,
        )
        if has_other_launcher(self.config):
            workers = self.slots, work, self.trial_timeout_s, look, began
            return Launch(self.plan, study, storage, self.hydra_context, self.config, *workers)
        return Supervisor(
            self.plan, study, storage, self.slots, work, self.trial_timeout_s, look, began
        )

    def _run_all(self, workers: Worker | Supervisor | Launch) -> None:
        try:
            workers.run()
        finally:
            self.signum = workers.signum

    def _is_in_foreground(self) -> bool:
        """Whether the one worker is this process, so that a debugger works."""
        is_one = len(self.slots) == 1 and not self.slots[0]
        return is_one and self.trial_timeout_s is None and not has_other_launcher(self.config)

    def _finish(self, study: SweepStudy, end: SweepEnd, n_before: int) -> None:
        drawn: Mapping[str, go.Figure] = {}
        try:
            drawn = self._write(study)
            if (
                end.reason is StopReason.COMPLETED
                and len(study.get_trials(deepcopy=False)) == n_before
            ):
                print(
                    f"nothing to do:   n_trials={self.plan.n_trials} is the study's total, give more to go on"
                )
        finally:
            for callback in self.callbacks:
                callback.after_sweep(study, self.plan, drawn, end)

    def _write(self, study: SweepStudy) -> Mapping[str, go.Figure]:
        trials = study.get_trials(deepcopy=False)
        write_results(self.plan, trials)
        if len(self.plan.directions) == 1 and (best := best_trials(self.plan, trials)):
            overrides = [*self.plan.space.fixed, *self.plan.space.overrides(best[0].params)]
            write_best(
                self.plan,
                self.hydra_context.config_loader.load_sweep_config(self.config, overrides),
            )
        drawn = write_report(self.plan, study)
        for line in final_table(self.plan, trials):
            print(line)
        return drawn

    def _end(self, study: SweepStudy, err: BaseException | None) -> SweepEnd:
        if self.signum is not None or isinstance(err, KeyboardInterrupt):
            signum = self.signum or signal.SIGINT
            return SweepEnd(
                StopReason.INTERRUPTED, f"interrupted by {signal.Signals(signum).name}", signum
            )
        if err is not None:
            return SweepEnd(reason_of(err), f"{type(err).__name__}: {err}")
        trials = study.get_trials(deepcopy=False)
        if has_failed(self.plan, trials):
            return SweepEnd(StopReason.ERROR, self._too_much(trials))
        return SweepEnd(StopReason.COMPLETED)

    def _too_much(self, trials: Sequence[FrozenTrial]) -> str:
        n, rate = len(failures(trials)), self.plan.max_failure_rate
        return f"{n} trial{'s' if n != 1 else ''} failed, more than max_failure_rate={rate:g} of n_trials={self.plan.n_trials}"

    def _exit_code(self, study: SweepStudy) -> int:
        trials = study.get_trials(deepcopy=False)
        if self.signum is not None:
            print("go on:           the same command again", flush=True)
            return 128 + self.signum
        if has_failed(self.plan, trials):
            print(
                f"nntrain: the sweep was stopped, for {self._too_much(trials)}: see the messages above.",
                file=sys.stderr,
            )
            return 1
        return 0
