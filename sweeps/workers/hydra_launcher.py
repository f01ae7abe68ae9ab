"""Workers as the jobs of another Hydra launcher: joblib, submitit for SLURM, Ray."""

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
from nntrain.sweeps.workers.signals import stopped_by
from nntrain.sweeps.workers.supervisor import LOOK_S, STOPPED, Supervisor, tell_stop

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""Hydra's own launcher, for which workers are processes of this machine."""

STOP = "nntrain.stop."
"""Before the name of a launch: the attribute of a study that tells its workers to stop, and by which signal."""

MAX_FRUITLESS = 2
"""Launches in a row in which no trial ends, after which there is no further one."""


def has_other_launcher(config: DictConfig) -> bool:
    """Whether a configuration asks for a launcher other than Hydra's own."""
    launcher = config.hydra.launcher
    return launcher is not None and launcher.get("_target_") not in (None, BASIC)


@dataclass(frozen=True)
class JobEnd:
    """What a job reports: whether the sampler has nothing left to try, the signal that ended it, and a mistake."""

    exhausted: bool = False
    signum: int | None = None
    error: str = ""


@dataclass(frozen=True)
class WorkerJob:
    """What each job does: it keeps one worker at work, in a process of its own, which a trial may bring down.

    Args:
        plan: what the sweep is to do.
        name: of this launch.
        work: what the worker gets.
        slots: the environment of each worker.
        cwd: where the sweep was started, for relative paths.
        trial_timeout_s: seconds after which a trial is killed.
        began: when the sweep was, in seconds of the clock.
    """

    plan: SweepPlan
    name: str
    work: bytes
    slots: Sequence[Mapping[str, str]]
    cwd: str
    trial_timeout_s: float | None
    began: float

    def __call__(self, config: DictConfig) -> JobEnd:
        """Runs trials until there is none left."""
        if Path(self.cwd).is_dir():
            os.chdir(self.cwd)
        number = int(HydraConfig.get().job.num)
        study, storage = open_study(self.plan)
        environ = {**self.slots[number % len(self.slots)], LAUNCH: self.name}

        def look(trials: Sequence[FrozenTrial]) -> None:
            if (
                signum := study.user_attrs.get(STOP + self.name)
            ) is not None and supervisor.signum is None:
                supervisor.stop(signum)

        supervisor = Supervisor(
            self.plan,
            study,
            storage,
            [environ],
            self.work,
            self.trial_timeout_s,
            look,
            self.began,
            number,
        )
        try:
            supervisor.run()
        except SweepError as err:
            return JobEnd(error=str(err))
        return JobEnd(supervisor.is_exhausted, supervisor.signum)


class Launch:
    """Launches as many jobs as there are slots, and again while there are trials to run.

    Args:
        plan: what the sweep is to do.
        study: its study.
        storage: and where that is kept.
        hydra_context: Hydra's.
        config: the configuration, which names the launcher.
        slots: the environment of each worker.
        work: what each worker gets.
        trial_timeout_s: seconds after which a trial is killed.
        look: is called with the trials, about twice a second.
        began: when the sweep was, in seconds of the clock.
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
        look: Callable[[Sequence[FrozenTrial]], None],
        began: float,
    ) -> None:
        self.plan, self.study, self.storage, self.hydra_context, self.config = (
            plan,
            study,
            storage,
            hydra_context,
            config,
        )
        self.slots, self.work, self.trial_timeout_s, self.look, self.began = (
            slots,
            work,
            trial_timeout_s,
            look,
            began,
        )
        self.signum: int | None = None
        self._n_launch = self._n_fruitless = 0
        self._is_exhausted = False

    def run(self) -> None:
        """Returns when no trial is left to run.

        Raises:
            SweepError: if launching does not get any trial to its end.
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
        """Launches the jobs and waits for them; returns what went wrong."""
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
        context = HydraContext(
            self.hydra_context.config_loader, Callbacks()
        )  # the user's are for trials
        first, self._n_launch = self._n_launch, self._n_launch + len(self.slots)
        overrides = [self._overrides(slot) for slot in range(len(self.slots))]
        try:
            launcher = Plugins.instance().instantiate_launcher(context, job, self.config)
            return launcher.launch(overrides, initial_job_idx=first)
        except Exception as err:
            what = self.config.hydra.launcher._target_.rpartition(".")[2]
            raise SweepError(f"hydra.launcher: {what} failed: {type(err).__name__}: {err}") from err

    def _overrides(self, slot: int) -> list[str]:
        """A job's own: the folders of Hydra's are below the study's, and trials choose what is swept over."""
        folder = Override._get_value_element_as_str(
            QuotedString(str(self.plan.folder), Quote.single)
        )
        own = [f"hydra.sweep.dir={folder}", f"hydra.sweep.subdir=workers/{slot}"]
        own += ["hydra.job.chdir=false", "hydra.output_subdir=null"]
        try:
            self.hydra_context.config_loader.load_sweep_config(self.config, own)
        except (
            HydraException,
            OmegaConfBaseException,
        ):  # something must be given, so give what any trial could have
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
        """Sees to the trials whose jobs have all ended, on whatever machine."""
        for trial in self._running(name):
            give_up_or_retry(
                self.study, self.storage, trial, KILLED, "its job ended without a word"
            )

    def _wait(self, name: str) -> None:
        """Waits for the workers on this machine that are still at it, although one job has failed."""
        while any(
            owner_of(trial)["host"] == socket.gethostname() and not is_lost(trial)
            for trial in self._running(name)
        ):
            time.sleep(LOOK_S)

    def _running(self, name: str) -> list[FrozenTrial]:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if owner_of(trial).get("launch") == name]

    # --- while it runs

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """Shows the trials as they end, and has a signal stop the workers, wherever they are."""
        over = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(name, over), name="nntrain-launch", daemon=True
        )
        thread.start()
        try:
            with stopped_by(self._receive):
                yield
        finally:
            over.set()
            thread.join()

    def _watch(self, name: str, over: threading.Event) -> None:
        is_told = False
        while not over.wait(LOOK_S):
            try:
                self.look(self.study.get_trials(deepcopy=False))
                if self.signum is not None and not is_told:
                    self.study.set_user_attr(STOP + name, self.signum)
                    is_told = True
            except STORAGE_ERRORS:
                continue  # the workers say so

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        """The first signal stops the workers at the next batch; a second one leaves the launcher at once."""
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        tell_stop()
