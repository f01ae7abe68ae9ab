"""Starts, watches, replaces, and stops the worker processes on this machine."""

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
from pathlib import Path
from types import FrameType
from typing import IO, Any

import cloudpickle
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nntrain.core.stop_signals import WARNINGS
from nntrain.result import StopReason
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
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
from nntrain.sweeps.workers.stop_signals import on_stop_signal
from nntrain.sweeps.workers.worker_main import EXHAUSTED, UNREACHABLE

POLL_S = 0.05
"""Seconds between two checks of the workers."""

STUDY_POLL_S = 0.5
"""Seconds between two reads of the study."""

NUMBERS = 100
"""The number of a replacement worker is the number of the dead worker plus this constant."""

STOPPED = "the sweep was stopped immediately"

PATIENCE_S = 20.0
"""Seconds without a response from the storage after which the sweep ends."""

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""Signals that indicate a crash. Such trials are not retried, because they would crash again."""


class WorkerProcess:
    """A worker process that does not receive Ctrl-C from the terminal."""

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
        # use a thread, because a write blocks if the data does not fit in the pipe's buffer
        threading.Thread(target=self._send, args=(work,), daemon=True).start()

    def _send(self, work: bytes) -> None:
        try:
            while work:
                work = work[os.write(self._pipe, work) :]
        except BrokenPipeError:
            return  # the process has died; the supervisor will notice

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative if a signal killed the process, `None` while the process runs."""
        return self.process.poll()

    def close(self) -> None:
        """Closes the pipe of a process that has ended."""
        os.close(self._pipe)


def packed(**work: Any) -> bytes:
    """Serializes `sys.path` and then the arguments of a worker.

    `sys.path` comes first because the worker must set it before it can unpickle the arguments. The
    worker's number is sent separately.
    """
    buffer: IO[bytes] = io.BytesIO()
    pickle.dump(list(sys.path), buffer)
    cloudpickle.dump(work, buffer)
    return buffer.getvalue()  # type: ignore[attr-defined, no-any-return]


class Supervisor:
    """Keeps one worker running in each slot until the study is complete.

    Args:
        plan: the plan of the sweep.
        study: the study of the sweep.
        storage: the storage of the study.
        slots: additional environment variables, one mapping per worker.
        work: the arguments of the workers, serialized by `packed`.
        trial_timeout_s: seconds after which a trial is killed.
        on_trials: called with all trials about twice per second.
        began: the start of the sweep, in seconds since 1970.
        first: the number of the first worker; other jobs of a Hydra launcher use other numbers.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: SweepStudy,
        storage: BaseStorage,
        slots: Sequence[Mapping[str, str]],
        work: bytes,
        trial_timeout_s: float | None,
        on_trials: Callable[[Sequence[FrozenTrial]], None],
        began: float,
        first: int = 0,
    ) -> None:
        self.plan, self.study, self.storage = plan, study, storage
        self.slots, self.work, self.first = slots, work, first
        self.trial_timeout_s, self.on_trials, self.began = trial_timeout_s, on_trials, began
        self.signum: int | None = None
        self.is_exhausted = False
        self._is_ending = False
        self._silent_since: float | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._n_fruitless = 0
        self._next_read = 0.0
        self._n_start: Counter[int] = Counter()
        self._seen: dict[int, float] = {}  # when a running trial was first seen, in seconds

    def run(self) -> None:
        """Runs the workers; returns when no worker is left.

        Raises:
            SweepError: if workers repeatedly exit before they start a trial.
        """
        with on_stop_signal(self._receive):
            try:
                while self._patient_step():
                    time.sleep(POLL_S)
            finally:
                self._kill()

    def _patient_step(self) -> bool:
        """Runs one step and returns whether to continue.

        If the storage does not respond, retries for up to `PATIENCE_S` before raising the error.
        """
        try:
            goes_on = self._step()
            self._silent_since = None
            return goes_on
        except STORAGE_ERRORS:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if self.signum is not None or now - self._silent_since > PATIENCE_S:
                raise
            time.sleep(STUDY_POLL_S)
            return True

    def _step(self) -> bool:
        for slot, worker in list(self._workers.items()):
            if worker.exit_code is not None:
                self._bury(slot, worker)
        trials = (
            self._trials()
            if time.monotonic() >= self._next_read or len(self._workers) < len(self.slots)
            else None
        )
        if trials is not None:
            self._tend(trials)
        return bool(self._workers)

    def _trials(self) -> list[FrozenTrial]:
        self._next_read = time.monotonic() + STUDY_POLL_S
        return self.study.get_trials(deepcopy=False)

    def _tend(self, trials: Sequence[FrozenTrial]) -> None:
        self._stop_overdue(trials)
        self.on_trials(trials)
        for slot in range(len(self.slots)):
            if slot not in self._workers and self._is_wanted(trials):
                self._start(slot)

    def _is_wanted(self, trials: Sequence[FrozenTrial]) -> bool:
        """Returns whether a new worker would find a trial to run.

        Each running worker without a trial is expected to claim a trial before the new worker does.
        """
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
        """Removes a dead worker, and ends the trial that the worker was running."""
        code = worker.exit_code
        assert code is not None
        self.is_exhausted |= code == EXHAUSTED
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        left = [trial for trial in running if is_of(trial, worker.process.pid) and is_lost(trial)]
        for trial in left:
            self._left_behind(trial, code)
        del self._workers[slot]  # last: if the storage does not respond, the next step tries again
        worker.close()
        has_run = any(is_of(trial, worker.process.pid) for trial in self.study.get_trials(False))
        self._n_fruitless = 0 if has_run or code in (0, EXHAUSTED) else self._n_fruitless + 1
        if self._n_fruitless > len(self.slots):
            raise SweepError(
                f"the workers exit before they start a trial (exit code {code}): see {worker.log}."
            )

    def _left_behind(self, trial: FrozenTrial, code: int) -> None:
        if self.signum is not None or self._is_ending:
            interrupt(self.study, self.storage, trial, STOPPED)
        elif code == UNREACHABLE:
            interrupt(self.study, self.storage, trial, "the storage did not respond")
        elif code >= 0:
            message = f"its process ended with exit code {code}"
            fail(self.study, self.storage, trial, StopReason.ERROR, message)
        elif -code in _CRASHES:
            message = f"its process crashed: {signal.Signals(-code).name}"
            fail(self.study, self.storage, trial, KILLED, message)
        else:
            message = f"its process was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                message += "; the system may have run out of memory"
            give_up_or_retry(self.study, self.storage, trial, KILLED, message)

    def _stop_overdue(self, trials: Sequence[FrozenTrial]) -> None:
        if self.trial_timeout_s is None:
            return
        now = time.monotonic()  # the local time of the storage jumps with daylight saving
        for trial in trials:
            worker = self._worker_of(trial) if trial.state is TrialState.RUNNING else None
            if worker is None:
                continue
            if now - self._seen.setdefault(trial.number, now) > self.trial_timeout_s:
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
        """Asks the workers to stop at the next batch; a second call kills them.

        A warning of a scheduler after another signal, and SIGTERM after a warning, change nothing.
        """
        if signum in WARNINGS and self.signum is not None:
            return
        if self.signum in WARNINGS and signum == signal.SIGTERM:
            return
        if self.signum is not None:
            for worker in self._workers.values():
                worker.process.kill()
            return
        self.signum = signum
        announce_stop()
        for worker in self._workers.values():
            worker.process.send_signal(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)


def announce_stop() -> None:
    """Prints to stderr that the sweep is stopping.

    Uses `os.write`, because `print` is not safe in a signal handler.
    """
    text = "stopping the running trials and queuing them again; press Ctrl-C again to kill them"
    os.write(2, f"nntrain: {text}\n".encode())
