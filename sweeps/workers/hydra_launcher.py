"""Runs workers as jobs of another Hydra launcher: joblib, submitit (SLURM), or Ray."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import first_params
from nntrain.sweeps.study.opening import open_study
from nntrain.sweeps.study.policy import is_over
from nntrain.sweeps.study.storage import STORAGE_ERRORS
from nntrain.sweeps.study.trials import (
    KILLED,
    LAUNCH,
    SweepStudy,
    give_up_or_retry,
    has_room,
    interrupt,
    is_lost,
    owner_of,
    repair,
)
from nntrain.sweeps.workers.stop_signals import on_stop_signal
from nntrain.sweeps.workers.supervisor import STOPPED, STUDY_POLL_S, Supervisor, announce_stop

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""Hydra's default launcher. If it is selected, workers are processes on this machine."""

STOP = "nntrain.stop."
"""The prefix of the study attribute that stops a launch; its value is a signal number."""

MAX_FRUITLESS = 2
"""The sweep gives up after this number of consecutive launches that finish no trial."""


def has_other_launcher(config: DictConfig) -> bool:
    """Returns whether a configuration selects a launcher other than Hydra's default."""
    launcher = config.hydra.launcher
    return launcher is not None and launcher.get("_target_") not in (None, BASIC)


@dataclass(frozen=True)
class JobEnd:
    """The return value of a job.

    Attributes:
        exhausted: whether the sampler has no configuration left.
        signum: the number of the signal, if one ended the job.
        error: the error message; empty if the job succeeded.
    """

    exhausted: bool = False
    signum: int | None = None
    error: str = ""


@dataclass(frozen=True)
class WorkerJob:
    """The function that the launcher runs in each job.

    The job keeps one worker running in a separate process. If a trial crashes the worker, the job
    starts another worker.

    Args:
        plan: the plan of the sweep.
        name: the name of this launch.
        work: the arguments of the worker, serialized by `packed`.
        slots: additional environment variables, one mapping per worker.
        cwd: the working directory of the sweep, for relative paths.
        trial_timeout_s: seconds after which a trial is killed.
        began: the start of the sweep, in seconds since 1970.
    """

    plan: SweepPlan
    name: str
    work: bytes
    slots: Sequence[Mapping[str, str]]
    cwd: str
    trial_timeout_s: float | None
    began: float

    def __call__(self, config: DictConfig) -> JobEnd:
        """Runs trials until no trial is left."""
        if Path(self.cwd).is_dir():
            os.chdir(self.cwd)
        number = int(HydraConfig.get().job.num)
        study, storage = open_study(self.plan)
        environ = {**self.slots[number % len(self.slots)], LAUNCH: self.name}

        def stop_if_requested(trials: Sequence[FrozenTrial]) -> None:
            signum = study.user_attrs.get(STOP + self.name)
            if signum is not None and supervisor.signum is None:
                supervisor.stop(signum)

        supervisor = Supervisor(
            self.plan,
            study,
            storage,
            [environ],
            self.work,
            self.trial_timeout_s,
            stop_if_requested,
            self.began,
            number,
        )
        try:
            supervisor.run()
        except SweepError as err:
            return JobEnd(error=str(err))
        return JobEnd(supervisor.is_exhausted, supervisor.signum)


class HydraLauncherWorkers:
    """Launches one job per slot, and repeats this while trials are left to run.

    Args:
        plan: the plan of the sweep.
        study: the study of the sweep.
        storage: the storage of the study.
        hydra_context: Hydra's context.
        config: the configuration, which selects the launcher.
        slots: additional environment variables, one mapping per worker.
        work: the arguments of the workers, serialized by `packed`.
        trial_timeout_s: seconds after which a trial is killed.
        on_trials: called with all trials about twice per second.
        began: the start of the sweep, in seconds since 1970.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: SweepStudy,
        storage: BaseStorage,
        hydra_context: HydraContext,
        config: DictConfig,
        slots: Sequence[Mapping[str, str]],
        work: bytes,
        trial_timeout_s: float | None,
        on_trials: Callable[[Sequence[FrozenTrial]], None],
        began: float,
    ) -> None:
        self.plan, self.study, self.storage = plan, study, storage
        self.hydra_context, self.config = hydra_context, config
        self.slots, self.work = slots, work
        self.trial_timeout_s, self.on_trials, self.began = trial_timeout_s, on_trials, began
        self.signum: int | None = None
        self._n_launch = self._n_fruitless = 0
        self._is_exhausted = False

    def run(self) -> None:
        """Launches the jobs; returns when no trial is left to run.

        Raises:
            SweepError: if `MAX_FRUITLESS` consecutive launches finish no trial and report an error.
        """
        while self._is_wanted():
            n_before = self._n_ended()
            error = self._launch(secrets.token_hex(4))
            repair(self.study, self.storage)
            self._n_fruitless = 0 if self._n_ended() > n_before else self._n_fruitless + 1
            if error and self._n_fruitless < MAX_FRUITLESS and self.signum is None:
                print(f"nntrain: {error}", file=sys.stderr)
            elif error and self.signum is None:
                raise SweepError(error)

    def _is_wanted(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        is_done = (
            self._is_exhausted
            or self._n_fruitless >= MAX_FRUITLESS
            or is_over(self.plan, trials, self.began)
        )
        return self.signum is None and not is_done and has_room(trials, self.plan.n_trials)

    def _n_ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    # --- one launch

    def _launch(self, name: str) -> str:
        """Launches the jobs and waits for them; returns the first error message, if any."""
        with self._watched(name):
            try:
                ends = self._ends(self._launched(name))
            except KeyboardInterrupt:
                for trial in self._running(name):
                    if is_lost(trial):
                        interrupt(self.study, self.storage, trial, STOPPED)
                return ""
            except SweepError as err:
                self._wait(name)
                return str(err)
        self._left_behind(name)
        self._is_exhausted |= any(end.exhausted for end in ends)
        self.signum = self.signum or next(
            (end.signum for end in ends if end.signum is not None), None
        )
        return next((end.error for end in ends if end.error), "")

    def _launched(self, name: str) -> Sequence[JobReturn]:
        job = WorkerJob(
            self.plan, name, self.work, self.slots, os.getcwd(), self.trial_timeout_s, self.began
        )
        # pass no callbacks: the user's Hydra callbacks run for trials, not for these jobs
        context = HydraContext(self.hydra_context.config_loader, Callbacks())
        first, self._n_launch = self._n_launch, self._n_launch + len(self.slots)
        overrides = [self._overrides(slot) for slot in range(len(self.slots))]
        try:
            launcher = Plugins.instance().instantiate_launcher(context, job, self.config)
            return launcher.launch(overrides, initial_job_idx=first)
        except Exception as err:
            what = self.config.hydra.launcher._target_.rpartition(".")[2]
            raise SweepError(f"hydra.launcher: {what} failed: {type(err).__name__}: {err}") from err

    def _overrides(self, slot: int) -> list[str]:
        """Returns the overrides of a job: they set the job's folder, but no trial parameters."""
        folder = Override._get_value_element_as_str(
            QuotedString(str(self.plan.folder), Quote.single)
        )
        own = [f"hydra.sweep.dir={folder}", f"hydra.sweep.subdir=workers/{slot}"]
        own += ["hydra.job.chdir=false", "hydra.output_subdir=null"]
        try:
            self.hydra_context.config_loader.load_sweep_config(self.config, own)
        except (HydraException, OmegaConfBaseException):
            # a required key has no value: use the first configuration of the search space
            return [
                *self.plan.space.fixed,
                *self.plan.space.overrides(first_params(self.plan.space)),
                *own,
            ]
        return own

    def _ends(self, returned: Sequence[JobReturn]) -> list[JobEnd]:
        try:
            return [one.return_value for one in returned]
        except Exception as err:
            raise SweepError(f"a worker failed: {type(err).__name__}: {err}") from err

    def _left_behind(self, name: str) -> None:
        """Ends trials that are marked as running although all jobs of the launch have ended."""
        for trial in self._running(name):
            message = "its job ended without a message"
            give_up_or_retry(self.study, self.storage, trial, KILLED, message)

    def _wait(self, name: str) -> None:
        """Waits for the remaining workers on this machine after one job has failed."""
        while any(
            owner_of(trial)["host"] == socket.gethostname() and not is_lost(trial)
            for trial in self._running(name)
        ):
            time.sleep(STUDY_POLL_S)

    def _running(self, name: str) -> list[FrozenTrial]:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if owner_of(trial).get("launch") == name]

    # --- watching a launch

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """Shows finished trials; after a signal, stops the workers on all machines."""
        over = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(name, over), name="nntrain-launch", daemon=True
        )
        thread.start()
        try:
            with on_stop_signal(self._receive):
                yield
        finally:
            over.set()
            thread.join()

    def _watch(self, name: str, over: threading.Event) -> None:
        is_announced = False
        while not over.wait(STUDY_POLL_S):
            try:
                self.on_trials(self.study.get_trials(deepcopy=False))
                if self.signum is not None and not is_announced:
                    self.study.set_user_attr(STOP + name, self.signum)
                    is_announced = True
            except STORAGE_ERRORS:
                continue  # the workers report this error
            except KeyError:  # the study was deleted, which the workers report too
                continue

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        """Stops the workers at the next batch; a second signal abandons the jobs immediately."""
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        announce_stop()
