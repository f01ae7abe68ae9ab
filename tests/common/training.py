"""Helpers that run training as a process, inject faults, and check the journals and trackers."""

import math
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from nntrain.integrations.journal.records import RunRecord, read_journal
from tests.common.servers import wait_until
from tests.common.wandb_store import WandbRun

REPOSITORY = Path(__file__).parents[2]

LONGEST_STALL_MS = 2000
"""The maximum delay of a training step with injected faults, besides the scripted pause.

The limit is generous because the test machine may be busy. Benchmarks measure the exact delay.
"""

Points = Mapping[str, list[tuple[int, int, str]]]
"""The points of each key in order: step, Unix time in milliseconds, and the exact value."""


def small(
    n_batch: int,
    *args: str,
    n_epoch: int = 1,
    batch_ms: float = 0.0,
    folder: str = "run",
    workers: int = 0,
) -> list[str]:
    """Returns the command line of a very small training run in `folder`."""
    return [
        "trusted_targets=[tests]",
        "~data",
        f"+data={{_target_: tests.e2e.user.loaders, n_batch: {n_batch}, num_workers: {workers}}}",
        "model.n_in=8",
        "model.n_out=2",
        "model.hidden=8",
        "callbacks=[signals]",
        "+callbacks.witness={_target_: tests.e2e.user.Witness, "
        f"path: {folder}.seen, batch_ms: {batch_ms}}}",
        f"n_epoch={n_epoch}",
        f"hydra.run.dir={folder}",
        *args,
    ]


class TrainingRun:
    """A `python -m nntrain.run` process, which is killed when the context exits.

    Args:
        cwd: working directory.
        args: arguments, including those of `small`.
        folder: folder of the run, relative to `cwd`; the output goes to `FOLDER.out`.
        env: additional environment variables.
    """

    def __init__(self, cwd: Path, args: list[str], folder: str = "run", **env: str) -> None:
        self.cwd, self.folder = cwd, cwd / folder
        self.started_s = time.time()
        with open(self._beside("out"), "wb") as out:
            self.process = psutil.Popen(
                [sys.executable, "-m", "nntrain.run", *args],
                cwd=cwd,
                env=_environ(env),
                stdout=out,
                stderr=out,
            )

    def _beside(self, suffix: str) -> Path:
        return self.cwd / f"{self.folder.name}.{suffix}"

    @property
    def output(self) -> str:
        """The output so far."""
        return self._beside("out").read_text()

    @property
    def record(self) -> RunRecord:
        """The journal of the run."""
        return read_journal(self.folder)

    @property
    def seen(self) -> list[tuple[float, float]]:
        """The time in ms and the loss of each training batch, as recorded by a user's callback."""
        path = self._beside("seen")
        data = path.read_bytes() if path.exists() else b""
        return list(struct.iter_unpack("dd", data[: len(data) // 16 * 16]))

    def wait_for_batches(self, n: int) -> None:
        """Waits until `n` batches are trained."""
        wait_until(lambda: self.lives() and len(self.seen) >= n, f"{n} batches in {self.folder}")

    def lives(self) -> bool:
        """Returns True if the process is running; otherwise fails with its output."""
        assert self.process.poll() is None, self.output
        return True

    def wait(self, timeout_s: float = 90) -> int:
        """Waits for the process to end and returns its exit code."""
        return int(self.process.wait(timeout_s))

    def shipper(self) -> psutil.Process:
        """Returns the shipper process of the run."""
        (found,) = (
            child
            for child in self.process.children()
            if any("shipper_main" in word for word in child.cmdline())
        )
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(psutil.NoSuchProcess):
            self.process.kill()
        self.process.wait()


def _environ(env: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **env}


def nntrain_sync(cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m nntrain.sync` and returns the finished process with its output."""
    return subprocess.run(
        [sys.executable, "-m", "nntrain.sync", *args],
        cwd=cwd,
        env=_environ(env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def processes_in(folder: Path) -> list[psutil.Process]:
    """Returns the processes whose working directory is `folder`, regardless of their parents."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _works_in(process, folder)
    ]


def _works_in(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder)
    return False


# --- results of a run


@dataclass
class StoredRun:
    """The content of MLflow's database for a run."""

    status: str = ""
    end_time: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    points: Points = field(default_factory=dict)


def stored_run(database: Path, uid: str) -> StoredRun | None:
    """Returns the run `uid` in MLflow's database, or `None` if it does not exist yet."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30) as connection:
        found = connection.execute(
            "SELECT run_uuid FROM tags WHERE key = 'nntrain.run' AND value = ?", [uid]
        ).fetchall()
        return _stored(connection, found[0][0]) if found else None


def n_runs(database: Path) -> int:
    """Returns the number of runs in MLflow's database."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def _stored(connection: sqlite3.Connection, run_id: str) -> StoredRun:
    status, end_time = connection.execute(
        "SELECT status, end_time FROM runs WHERE run_uuid = ?", [run_id]
    ).fetchone()
    tags = dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run_id]))
    columns = (
        "SELECT key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ? ORDER BY rowid"
    )
    points = defaultdict(list)
    for key, step, time_ms, value, is_nan in connection.execute(columns, [run_id]):
        if not key.startswith("system/"):  # measured by the shipper, so not in the journal
            points[key].append((step, time_ms, exact(math.nan if is_nan else value)))
    return StoredRun(status, end_time, tags, dict(points))


def exact(value: float) -> str:
    """Returns a number as a string without rounding, so that NaN equals NaN."""
    return "nan" if math.isnan(value) else repr(float(value))


def journal_points(record: RunRecord) -> Points:
    """Returns the points of a journal."""
    return {
        key: [
            (int(step), int(time_ms), exact(value))
            for step, time_ms, value in zip(series.step, series.time_ms, series.value, strict=True)
        ]
        for key, series in record.metrics.items()
    }


def without_time(points: Points) -> dict[str, list[tuple[int, str]]]:
    """Returns the step and the value of each point."""
    return {key: [(step, value) for step, _, value in series] for key, series in points.items()}


def wandb_points(run: WandbRun) -> dict[str, list[tuple[int, str]]]:
    """Returns the step and the value of each point in an offline W&B run, except W&B's own keys."""
    points = defaultdict(list)
    for row in run.history:
        for key, value in row.items():
            if key != "train_iter" and not key.startswith(("_", "plots/")):
                points[key].append((row["train_iter"], exact(value)))
    return dict(points)


def assert_delivered(record: RunRecord, database: Path) -> StoredRun:
    """Checks that MLflow contains exactly the points of the journal, once each and in order."""
    run = stored_run(database, record.run.uid)
    assert run is not None
    assert record.damaged == {}
    assert run.points == journal_points(record)
    return run


def assert_unhurt(run: TrainingRun, expected: list[float], batch_ms: float = 0.0) -> float:
    """Checks that the losses equal the expected losses exactly and that no step stalled.

    Returns:
        The longest stall, in milliseconds.
    """
    times, losses = zip(*run.seen, strict=True)
    assert list(losses) == expected[: len(losses)]
    stalls = [after - before - batch_ms for before, after in pairwise(times)]
    assert max(stalls) <= LONGEST_STALL_MS
    return max(stalls)


def assert_journal_is_whole(run: TrainingRun) -> None:
    """Checks that the journal contains every training batch."""
    losses = run.record.metrics["batch/loss"]
    assert losses.step.tolist() == list(range(1, len(run.seen) + 1))
    assert losses.value.tolist() == [loss for _, loss in run.seen]
