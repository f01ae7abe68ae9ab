"""A sweep from its beginning to its end: the study opened, its trials run by workers, what they found written down."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from optuna.storages import BaseStorage

from nntrain.sweeps.hydra_state import taken
from nntrain.sweeps.live import LiveTable, best_trials
from nntrain.sweeps.plan import SweepPlan
from nntrain.sweeps.policy import failures, has_failed
from nntrain.sweeps.report import write_report
from nntrain.sweeps.results import final_table, write_best, write_results
from nntrain.sweeps.study import begin, open_study
from nntrain.sweeps.supervisor import Supervisor, packed
from nntrain.sweeps.trials import SweepStudy, repair
from nntrain.sweeps.worker import Worker


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
    """

    plan: SweepPlan
    task_function: TaskFunction
    hydra_context: HydraContext
    config: DictConfig
    slots: Sequence[Mapping[str, str]]
    trial_timeout_s: float | None = None
    signum: int | None = field(default=None, init=False)

    def run(self) -> int:
        """Runs the trials and writes the results; returns the exit code of the process."""
        study, storage = open_study(self.plan)
        begin(study, self.plan)
        repair(study, storage)
        try:
            self._trials(study, storage)
        finally:
            repair(study, storage)
            self._finish(study)
        return self._exit_code(study)

    def _trials(self, study: SweepStudy, storage: BaseStorage) -> None:
        with LiveTable(self.plan) as table:
            table.look(study.get_trials(deepcopy=False))
            if len(self.slots) == 1 and self.trial_timeout_s is None and not self.slots[0]:
                worker = Worker(self.plan, self.task_function, self.hydra_context, self.config, after_trial=table.look)
                worker.run()
                self.signum = worker.signum
            else:
                supervisor = Supervisor(self.plan, study, storage, self.slots, self._work, self.trial_timeout_s, table.look)
                supervisor.run()
                self.signum = supervisor.signum
            table.look(study.get_trials(deepcopy=False))

    def _work(self, slot: int) -> bytes:
        return packed(
            state=taken(),
            plan=self.plan,
            task_function=self.task_function,
            hydra_context=self.hydra_context,
            config=self.config,
            slot=slot,
        )

    def _finish(self, study: SweepStudy) -> None:
        trials = study.get_trials(deepcopy=False)
        write_results(self.plan, trials)
        if len(self.plan.directions) == 1 and (best := best_trials(self.plan, trials)):
            overrides = [*self.plan.space.fixed, *self.plan.space.overrides(best[0].params)]
            write_best(self.plan, self.hydra_context.config_loader.load_sweep_config(self.config, overrides))
        write_report(self.plan, study)
        for line in final_table(self.plan, trials):
            print(line)

    def _exit_code(self, study: SweepStudy) -> int:
        trials = study.get_trials(deepcopy=False)
        if self.signum is not None:
            print("go on:           the same command again", flush=True)
            return 128 + self.signum
        if has_failed(self.plan, trials):
            n, rate = len(failures(trials)), self.plan.max_failure_rate
            print(
                f"nntrain: the sweep was stopped, for {n} trials failed, more than max_failure_rate={rate:g} of "
                f"n_trials={self.plan.n_trials}: see the messages above.",
                file=sys.stderr,
            )
            return 1
        return 0
