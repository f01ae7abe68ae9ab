"""A Hydra application that uses only nntrain's sweeps, and helpers to start it as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import optuna
import psutil
from optuna.storages import BaseStorage, get_storage
from optuna.trial import FrozenTrial, TrialState

from nntrain.sweeps.study.storage import open_storage
from nntrain.sweeps.study.trials import MESSAGE, OUTCOME, counted
from tests.common.servers import wait_until

APP = """
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

from nntrain.sweeps import current_trial, register


def hang():
    while True:
        time.sleep(0.05)


def out_of_memory():
    raise MemoryError("no room for 1 TiB")


def fail():
    raise ValueError("the learning rate is the wrong color")


FAULTS = {
    "hang": hang,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: sys.exit(7),
    "out_of_memory": out_of_memory,
    "delete": lambda: shutil.rmtree(HydraConfig.get().runtime.output_dir),
    "fail": fail,
    "deaf": lambda: (signal.signal(signal.SIGINT, signal.SIG_IGN), hang()),
}

ConfigStore.instance().store(name="app", node={"x": 0.0})


@hydra.main(version_base="1.3", config_path=None, config_name="app")
def job(cfg):
    number = current_trial().number
    (Path(HydraConfig.get().runtime.output_dir) / "began").touch()
    faults = os.environ["FAULTS"].split()
    if number < len(faults):
        FAULTS[faults[number]]()
    time.sleep(float(os.environ["SLEEP_S"]))
    return (cfg.x - 1) ** 2


if __name__ == "__main__":
    register()
    job()
"""

STUDY = "parabola"


class SweepCommand:
    """A command that runs a sweep of the application; a test can run the command several times.

    Args:
        folder: the working directory.
        overrides: overrides in addition to the search space and the name of the study.
        storage: the URL of the storage; `None` uses the file in the study's folder.
    """

    def __init__(self, folder: Path, *overrides: str, storage: str | None = None) -> None:
        self.folder, self.storage = folder, storage
        self.study_folder = folder / "multirun" / STUDY
        folder.mkdir(exist_ok=True)
        (folder / "app.py").write_text(APP)
        chosen = [
            f"hydra.sweeper.study_name={STUDY}",
            "hydra/sweeper/sampler=random",
            "x=interval(-5,5)",
            *overrides,
        ]
        if storage is not None:
            chosen.append(f"hydra.sweeper.storage={storage}")
        self.command = [sys.executable, "app.py", "-m", "hydra/sweeper=nntrain", *chosen]

    def run(
        self, faults: Sequence[str] = (), sleep_s: float = 0.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command; returns the finished process with its output."""
        with self.started(faults, sleep_s) as process:
            out, err = process.communicate(timeout=200)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @contextmanager
    def started(
        self, faults: Sequence[str] = (), sleep_s: float = 0.0
    ) -> Iterator[subprocess.Popen[str]]:
        """Starts the command; on exit, kills the command and all processes that it started.

        Args:
            faults: the faults of the first trials, as keys of `FAULTS`.
            sleep_s: the duration of the other trials, in seconds.
        """
        process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "FAULTS": " ".join(faults),
                "SLEEP_S": str(sleep_s),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            for one in self.processes():
                one.kill()
            with process:
                pass  # closes the pipes and waits for the process

    def trials(self) -> list[FrozenTrial]:
        """Returns the trials of the study."""
        return optuna.load_study(study_name=STUDY, storage=self._opened).get_trials(deepcopy=False)

    @cached_property
    def _opened(self) -> BaseStorage:
        return get_storage(open_storage(self.storage, self.study_folder))

    def wait_for(
        self, n: int, process: subprocess.Popen[str], state: TrialState = TrialState.COMPLETE
    ) -> None:
        """Waits until `n` trials are in a state."""
        self.wait_until_started([0], process)

        def is_so() -> bool:
            assert process.poll() is None, process.communicate()
            return sum(trial.state is state for trial in self.trials()) >= n

        wait_until(is_so, f"{n} trials {state.name}")

    def wait_until_started(self, numbers: Sequence[int], process: subprocess.Popen[str]) -> None:
        """Waits until the jobs of the given trials are running."""

        def is_so() -> bool:
            assert process.poll() is None, process.communicate()
            return all((self.study_folder / str(number) / "began").exists() for number in numbers)

        wait_until(is_so, f"the start of trials {numbers}")

    def processes(self) -> list[psutil.Process]:
        """Returns all processes whose working directory is the folder."""
        return [process for process in psutil.process_iter() if _cwd(process) == str(self.folder)]

    def workers(self) -> list[psutil.Process]:
        """Returns the processes that are workers."""
        return [
            process
            for process in self.processes()
            if any("worker_main" in word for word in process.cmdline())
        ]

    def assert_no_process_is_left(self) -> None:
        """Waits until all processes have exited; orphaned processes need a moment."""
        wait_until(lambda: not self.processes(), f"the end of the processes in {self.folder}")


def _cwd(process: psutil.Process) -> str | None:
    try:
        return process.cwd() if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def states(trials: Sequence[FrozenTrial]) -> Counter[str]:
    """Returns the number of trials in each state."""
    return Counter(trial.state.name for trial in trials)


def assert_all_done(command: SweepCommand, n: int) -> None:
    """Asserts that `n` configurations completed exactly once and that all processes have exited."""
    trials = command.trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert states(counted(trials)) == {"COMPLETE": n}
    assert states(trials)["RUNNING"] == states(trials)["WAITING"] == 0
    command.assert_no_process_is_left()


def causes(trials: Sequence[FrozenTrial]) -> dict[int, tuple[str, str, str]]:
    """Returns the state, outcome, and message of each trial that did not complete."""
    return {
        trial.number: (
            trial.state.name,
            trial.user_attrs.get(OUTCOME, ""),
            trial.user_attrs.get(MESSAGE, ""),
        )
        for trial in trials
        if trial.state is not TrialState.COMPLETE
    }
