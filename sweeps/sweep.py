"""Runs a sweep: opens the study, starts the workers, and writes the results."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nntrain.config.instantiate import instantiate
from nntrain.config.learning import learn_config
from nntrain.config.redact import learn_arguments, redact_text
from nntrain.config.targets import check_function
from nntrain.config.trust import granted
from nntrain.core.events import reason_of
from nntrain.result import StopReason
from nntrain.sweeps.callbacks import StudyCallback, SweepEnd
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.report.best import best_trials
from nntrain.sweeps.report.html import write_report
from nntrain.sweeps.report.live import LiveTable
from nntrain.sweeps.report.results import final_table, write_best, write_results
from nntrain.sweeps.spec.checks import check_space
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.settings import make_plan
from nntrain.sweeps.spec.space import make_space
from nntrain.sweeps.study.heartbeat import Watch
from nntrain.sweeps.study.opening import begin, is_deleted, open_study
from nntrain.sweeps.study.policy import failures, has_failed, is_over
from nntrain.sweeps.study.pruner import end_reports
from nntrain.sweeps.study.storage import STORAGE_ERRORS, lost_storage
from nntrain.sweeps.study.trials import SweepStudy, repair
from nntrain.sweeps.workers.devices import n_cores, slots, threads
from nntrain.sweeps.workers.hydra_launcher import HydraLauncherWorkers, has_other_launcher
from nntrain.sweeps.workers.hydra_state import hydra_state
from nntrain.sweeps.workers.stop_signals import on_stop_signal
from nntrain.sweeps.workers.supervisor import STUDY_POLL_S, Supervisor, packed
from nntrain.sweeps.workers.worker import Worker

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass
class Sweep:
    """A sweep that is ready to run.

    Args:
        plan: the plan of the sweep.
        task_function: the user's job.
        hydra_context: Hydra's context.
        config: the base configuration, to which each trial's overrides are applied.
        slots: additional environment variables, one mapping per worker.
        trial_timeout_s: seconds after which a running trial is killed; `None` sets no limit.
        callbacks: callbacks to run before and after the trials.
    """

    plan: SweepPlan
    task_function: TaskFunction
    hydra_context: HydraContext
    config: DictConfig
    slots: Sequence[Mapping[str, str]]
    trial_timeout_s: float | None = None
    callbacks: Sequence[StudyCallback] = ()
    signum: int | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)

    def run(self) -> int:
        """Runs the trials and writes the results; returns the exit code of the process.

        Raises:
            SweepError: if the storage stops responding, the study is deleted, or its folder cannot
                be used.
        """
        try:
            return self._run()
        except STORAGE_ERRORS as err:
            raise lost_storage(self.plan.storage, err) from err
        except OSError as err:
            raise SweepError(
                f"cannot use {err.filename or self.plan.folder} ({err.strerror or err}): the "
                "trials so far are in the study; run the same command again when this works."
            ) from err
        except KeyError as err:
            if is_deleted(self.plan):
                raise SweepError(
                    f"The study {self.plan.study_name} was deleted from its storage while the "
                    f"sweep was running: its files are in {self.plan.folder}; choose another "
                    "hydra.sweeper.study_name to start again."
                ) from err
            raise

    def _run(self) -> int:
        self._began = time.time()
        study, storage = open_study(self.plan)
        begin(study, self.plan)
        self._repair(study, storage)
        watch = Watch(study, storage)
        for callback in self.callbacks:
            callback.before_sweep(study, self.plan)
        n_before = len(study.get_trials(deepcopy=False))
        try:
            self._trials(study, storage, watch)
            while self._frees_others(study, watch):
                self._trials(study, storage, watch)
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

    # --- the trials

    def _trials(self, study: SweepStudy, storage: BaseStorage, watch: Watch) -> None:
        with LiveTable(self.plan) as table:
            table.update(study.get_trials(deepcopy=False))

            def update(trials: Sequence[FrozenTrial]) -> None:
                table.update(trials)
                watch.look(trials)

            if self._is_in_foreground():
                worker = Worker(
                    self.plan,
                    self.task_function,
                    self.hydra_context,
                    self.config,
                    after_trial=update,
                    began=self._began,
                )
                self._run_all(worker)
            else:
                self._run_all(self._workers(study, storage, update))
            table.update(study.get_trials(deepcopy=False))

    def _workers(
        self,
        study: SweepStudy,
        storage: BaseStorage,
        on_trials: Callable[[Sequence[FrozenTrial]], None],
    ) -> Supervisor | HydraLauncherWorkers:
        """Creates workers: processes on this machine, or jobs of another Hydra launcher."""
        work = packed(
            state=hydra_state(),
            plan=self.plan,
            task_function=self.task_function,
            hydra_context=self.hydra_context,
            config=self.config,
            began=self._began,
        )
        rest = self.slots, work, self.trial_timeout_s, on_trials, self._began
        if has_other_launcher(self.config):
            return HydraLauncherWorkers(
                self.plan, study, storage, self.hydra_context, self.config, *rest
            )
        return Supervisor(self.plan, study, storage, *rest)

    def _run_all(self, workers: Worker | Supervisor | HydraLauncherWorkers) -> None:
        try:
            workers.run()
        finally:
            self.signum = workers.signum

    # --- the trials of other machines

    def _frees_others(self, study: SweepStudy, watch: Watch) -> bool:
        """Waits for heartbeats of other machines; returns whether a lost trial was queued again."""
        n_before = _n_waiting(study.get_trials(deepcopy=False))
        is_announced = False
        with on_stop_signal(self._receive):
            while trials := self._undecided(study, watch):
                if not is_announced:
                    numbers = ", ".join(str(trial.number) for trial in trials)
                    print(f"nntrain: waiting for a heartbeat of trial {numbers} on another machine")
                is_announced = True
                time.sleep(STUDY_POLL_S)
                watch.look(study.get_trials(deepcopy=False))
        return self.signum is None and _n_waiting(study.get_trials(deepcopy=False)) > n_before

    def _undecided(self, study: SweepStudy, watch: Watch) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        has_ended = self.signum is not None or is_over(self.plan, trials, self._began)
        return [] if has_ended else watch.undecided(trials)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum

    def _is_in_foreground(self) -> bool:
        """Returns whether this process runs the trials itself, which lets you use a debugger."""
        is_one = len(self.slots) == 1 and not self.slots[0]
        return is_one and self.trial_timeout_s is None and not has_other_launcher(self.config)

    # --- the end

    def _finish(self, study: SweepStudy, end: SweepEnd, n_before: int) -> None:
        drawn: Mapping[str, go.Figure] = {}
        try:
            drawn = self._write(study)
            n_after = len(study.get_trials(deepcopy=False))
            if end.reason is StopReason.COMPLETED and n_after == n_before:
                print(
                    f"nothing to do:   n_trials={self.plan.n_trials} includes the trials of "
                    "earlier commands; increase n_trials to run more"
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
            return SweepEnd(reason_of(err), redact_text(f"{type(err).__name__}: {err}"))
        trials = study.get_trials(deepcopy=False)
        if has_failed(self.plan, trials):
            return SweepEnd(StopReason.ERROR, self._too_many(trials))
        return SweepEnd(StopReason.COMPLETED)

    def _too_many(self, trials: Sequence[FrozenTrial]) -> str:
        n, rate = len(failures(trials)), self.plan.max_failure_rate
        return (
            f"{n} trial{'s' if n != 1 else ''} failed, more than max_failure_rate={rate:g} of "
            f"n_trials={self.plan.n_trials}"
        )

    def _exit_code(self, study: SweepStudy) -> int:
        trials = study.get_trials(deepcopy=False)
        if self.signum is not None:
            print("resume it:       run the same command again", flush=True)
            return 128 + self.signum
        if has_failed(self.plan, trials):
            print(
                f"nntrain: the sweep stopped because {self._too_many(trials)}; see the messages "
                "above.",
                file=sys.stderr,
            )
            return 1
        return 0


def _n_waiting(trials: Sequence[FrozenTrial]) -> int:
    return sum(trial.state is TrialState.WAITING for trial in trials)


# --- creating a sweep from the command line


def make_sweep(
    settings: Mapping[str, Any],
    arguments: Sequence[str],
    task_function: TaskFunction,
    hydra_context: HydraContext,
    config: DictConfig,
) -> Sweep:
    """Creates a sweep after checking all settings; starts no trial and writes no file.

    Args:
        settings: the keys of `hydra.sweeper`.
        arguments: the overrides from the command line.
        task_function: the user's job.
        hydra_context: Hydra's context.
        config: the configuration of the sweep.

    Raises:
        ConfigError: for the first invalid setting.
    """
    learn_arguments(arguments)
    learn_config(config, settings)
    loader = hydra_context.config_loader
    trusted = [*granted(arguments), *_program(task_function)]
    if settings["custom_search_space"] is not None:
        check_function(
            settings["custom_search_space"], trusted, "hydra.sweeper.custom_search_space"
        )
    space = make_space(settings["params"] or {}, arguments, loader)
    learn_config(config, space.secrets())
    first = check_space(space, settings, config, loader)
    plan = make_plan(settings, space, config, trusted)
    for one in (config, first):
        with open_dict(one):
            one.hydra.sweep.dir = str(plan.folder)
    callbacks = _make_callbacks(settings["callbacks"] or {}, plan.trusted)
    for callback in callbacks:
        callback.check(plan, first)
    return Sweep(
        plan,
        task_function,
        hydra_context,
        config,
        _make_slots(settings),
        settings["trial_timeout_s"],
        callbacks,
    )


def _program(task_function: TaskFunction) -> list[str]:
    """Returns the module of the user's own program, which is trusted because it is running.

    `nntrain.run` is no such program: it trusts only what the user typed.
    """
    module = getattr(task_function, "__module__", None) or ""
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file else ""
    return [module] if module and module.split(".")[0] != "nntrain" else []


def _make_slots(settings: Mapping[str, Any]) -> list[Mapping[str, str]]:
    places = slots(settings["gpus"], settings["workers_per_gpu"], settings["n_jobs"])
    share = threads(len(places), n_cores(), os.environ)
    return [share | place for place in places]


def _make_callbacks(nodes: Mapping[str, Any], trusted: Sequence[str]) -> list[StudyCallback]:
    return [
        _make_callback(f"hydra.sweeper.callbacks.{name}", node, trusted)
        for name, node in nodes.items()
        if node is not None
    ]


def _make_callback(key: str, node: Any, trusted: Sequence[str]) -> StudyCallback:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    made = instantiate(plain, key, trusted)
    if not isinstance(made, StudyCallback):
        raise SweepError(
            f"{key} creates an object of type {type(made).__name__}, which does not implement "
            "nntrain.sweeps.StudyCallback."
        )
    return made
