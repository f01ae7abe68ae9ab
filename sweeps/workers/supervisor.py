"""Workers as processes of this machine: started, watched, replaced when they die, and stopped when they are told to."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

import cloudpickle
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nntrain.result import StopReason
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.heartbeat import fail_stale
from nntrain.sweeps.study.policy import is_over
from nntrain.sweeps.study.storage import STORAGE_ERRORS
from nntrain.sweeps.study.trials import (
    KILLED,
    TIMEOUT,
    SweepStudy,
    fail,
    give_up_or_retry,
    has_room,
    interrupt,
    is_lost,
    is_of,
)
from nntrain.sweeps.workers.signals import stopped_by
from nntrain.sweeps.workers.worker_main import EXHAUSTED, UNREACHABLE

POLL_S = 0.05
"""Seconds between two looks at the workers."""

LOOK_S = 0.5
"""Seconds between two looks at the study."""

STALE_S = 10.0
"""Seconds between two looks for trials of other machines that give no sign of life."""

NUMBERS = 100
"""How far the numbers of two workers of one slot are apart, of which the second replaces the first."""

STOPPED = "the sweep was stopped at once"

PATIENCE_S = 20.0
"""Seconds that a storage may leave unanswered before the sweep ends."""

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""What a process dies of by its own doing: the same configuration would die again."""


class WorkerProcess:
    """A worker in a process of its own, which a Ctrl-C in the terminal does not reach."""

    def __init__(self, work: bytes, environ: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        theirs, self._pipe = os.pipe()
        main = Path(__file__).with_name("worker_main.py")
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(main), str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=[theirs],
                process_group=0,
                env={**os.environ, **environ},
            )
        os.close(theirs)
        self.log = log
        threading.Thread(
            target=self._send, args=(work,), daemon=True
        ).start()  # it may take longer than the pipe holds

    def _send(self, work: bytes) -> None:
        try:
            while work:
                work = work[os.write(self._pipe, work) :]
        except BrokenPipeError:
            return  # it has died, which is seen elsewhere

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; `None` while it lives."""
        return self.process.poll()

    def close(self) -> None:
        """Lets go of the pipe of a process that has ended."""
        os.close(self._pipe)


def packed(**work: Any) -> bytes:
    """The work of a worker as it goes through the pipe; the search path of modules comes first, the worker's number last."""
    buffer: IO[bytes] = io.BytesIO()
    pickle.dump(list(sys.path), buffer)
    cloudpickle.dump(work, buffer)
    return buffer.getvalue()  # type: ignore[attr-defined, no-any-return]


class Supervisor:
    """Keeps as many workers at work as there are slots, until the study has all its trials.

    Args:
        plan: what the sweep is to do.
        study: its study.
        storage: and where that is kept.
        slots: the environment of each worker.
        work: what each worker gets.
        trial_timeout_s: seconds after which a trial is killed.
        look: is called with the trials, about twice a second.
        began: when the sweep was, in seconds of the clock.
        first: the number of the first worker, where there are others elsewhere.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: SweepStudy,
        storage: BaseStorage,
        slots: Sequence[Mapping[str, str]],
        work: bytes,
        trial_timeout_s: float | None,
        look: Callable[[Sequence[FrozenTrial]], None],
        began: float,
        first: int = 0,
    ) -> None:
        self.plan, self.study, self.storage, self.slots, self.work = (
            plan,
            study,
            storage,
            slots,
            work,
        )
        self.trial_timeout_s, self.look, self.began, self.first = (
            trial_timeout_s,
            look,
            began,
            first,
        )
        self.signum: int | None = None
        self.is_exhausted = False
        self._is_ending = False
        self._silent_since: float | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._n_fruitless = 0
        self._next_look = self._next_stale = 0.0
        self._n_start: Counter[int] = Counter()

    def run(self) -> None:
        """Returns when no worker is left.

        Raises:
            SweepError: if the workers die before they take a trial.
        """
        with stopped_by(self._receive):
            try:
                while self._patient_step():
                    time.sleep(POLL_S)
            finally:
                self._kill()

    def _patient_step(self) -> bool:
        """A step, or a pause if the storage does not answer: trials that train need not know."""
        try:
            goes_on = self._step()
            self._silent_since = None
            return goes_on
        except STORAGE_ERRORS:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if self.signum is not None or now - self._silent_since > PATIENCE_S:
                raise
            time.sleep(LOOK_S)
            return True

    def _step(self) -> bool:
        for slot, worker in list(self._workers.items()):
            if worker.exit_code is not None:
                self._bury(slot, worker)
        trials = (
            self._trials()
            if time.monotonic() >= self._next_look or len(self._workers) < len(self.slots)
            else None
        )
        if trials is not None:
            self._tend(trials)
        return bool(self._workers)

    def _trials(self) -> list[FrozenTrial]:
        self._next_look = time.monotonic() + LOOK_S
        if time.monotonic() >= self._next_stale:
            self._next_stale = time.monotonic() + STALE_S
            fail_stale(self.study)
        return self.study.get_trials(deepcopy=False)

    def _tend(self, trials: Sequence[FrozenTrial]) -> None:
        self._stop_overdue(trials)
        self.look(trials)
        for slot in range(len(self.slots)):
            if slot not in self._workers and self._is_wanted(trials):
                self._start(slot)

    def _is_wanted(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether one more worker would find something to do; one that has just started has not taken it yet."""
        if self.signum is not None or self.is_exhausted or is_over(self.plan, trials, self.began):
            return False
        busy = sum(
            self._worker_of(trial) is not None
            for trial in trials
            if trial.state is TrialState.RUNNING
        )
        idle = len(self._workers) - busy
        return (
            has_room(trials, self.plan.n_trials - idle)
            if idle
            else has_room(trials, self.plan.n_trials)
        )

    def _start(self, slot: int) -> None:
        log = self.plan.folder / "workers" / f"{self.first + slot}.log"
        number = self.first + slot + NUMBERS * self._n_start[slot]
        self._workers[slot] = WorkerProcess(self.work + pickle.dumps(number), self.slots[slot], log)
        self._n_start[slot] += 1

    # --- the end of a worker

    def _bury(self, slot: int, worker: WorkerProcess) -> None:
        """Sees to the trial that a worker has left behind."""
        code = worker.exit_code
        assert code is not None
        self.is_exhausted |= code == EXHAUSTED
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        left = [trial for trial in running if is_of(trial, worker.process.pid) and is_lost(trial)]
        for trial in left:
            self._left_behind(trial, code)
        del self._workers[slot]  # only now: if the storage does not answer, this is tried again
        worker.close()
        self._n_fruitless = 0 if left or code in (0, EXHAUSTED) else self._n_fruitless + 1
        if self._n_fruitless > len(self.slots):
            raise SweepError(
                f"the workers end before they take a trial (exit code {code}): look into {worker.log}."
            )

    def _left_behind(self, trial: FrozenTrial, code: int) -> None:
        if self.signum is not None or self._is_ending:
            interrupt(self.study, self.storage, trial, STOPPED)
        elif code == UNREACHABLE:
            interrupt(self.study, self.storage, trial, "the storage did not answer")
        elif code >= 0:
            fail(
                self.study,
                self.storage,
                trial,
                StopReason.ERROR,
                f"its process ended with exit code {code}",
            )
        elif -code in _CRASHES:
            fail(
                self.study,
                self.storage,
                trial,
                KILLED,
                f"its process crashed: {signal.Signals(-code).name}",
            )
        else:
            message = f"its process was killed by {signal.Signals(-code).name}" + _PERHAPS * (
                -code == signal.SIGKILL
            )
            give_up_or_retry(self.study, self.storage, trial, KILLED, message)

    def _stop_overdue(self, trials: Sequence[FrozenTrial]) -> None:
        if self.trial_timeout_s is None:
            return
        for trial in trials:
            if trial.state is TrialState.RUNNING and (worker := self._worker_of(trial)) is not None:
                assert trial.datetime_start is not None
                if (datetime.now() - trial.datetime_start).total_seconds() > self.trial_timeout_s:
                    message = f"it ran longer than trial_timeout_s={self.trial_timeout_s:g}"
                    fail(self.study, self.storage, trial, TIMEOUT, message)
                    worker.process.kill()

    def _worker_of(self, trial: FrozenTrial) -> WorkerProcess | None:
        return next(
            (worker for worker in self._workers.values() if is_of(trial, worker.process.pid)), None
        )

    def _kill(self) -> None:
        self._is_ending = True
        for worker in self._workers.values():
            worker.process.kill()
        for slot, worker in list(self._workers.items()):
            worker.process.wait()
            self._bury(slot, worker)

    # --- signals

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.stop(signum)

    def stop(self, signum: int) -> None:
        """The first signal goes on to the workers, which stop at the next batch; a second one ends them at once."""
        if self.signum is not None:
            for worker in self._workers.values():
                worker.process.kill()
            return
        self.signum = signum
        tell_stop()
        for worker in self._workers.values():
            worker.process.send_signal(
                signal.SIGTERM if signum == signal.SIGTERM else signal.SIGINT
            )


def tell_stop() -> None:
    """Says that the sweep is stopping; in a signal handler `print` could meet itself."""
    os.write(
        2,
        b"nntrain: the running trials stop and are queued again; one more Ctrl-C ends them at once\n",
    )


_PERHAPS = ", as the system does to one that takes too much memory"
