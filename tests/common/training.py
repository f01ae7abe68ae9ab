"""Runs of the command line that are hurt, and the count of what they have left in journal and trackers."""

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

LONGEST_STALL_MS = 500
"""What no step of a hurt run may take beyond its pause; the machine that tests may be busy, and benchmarks measure better."""

Points = Mapping[str, list[tuple[int, int, str]]]
"""The points of each key in order: step, milliseconds since the epoch of the clock, and the value in full."""


def small(
    n_batch: int,
    *args: str,
    n_epoch: int = 1,
    batch_ms: float = 0.0,
    folder: str = "run",
    workers: int = 0,
) -> list[str]:
    """The command line of a training that costs next to nothing, in that folder."""
    return [
        "trusted_targets=[tests]",
        "~data",
        f"+data={{_target_: tests.e2e.user.loaders, n_batch: {n_batch}, num_workers: {workers}}}",
        "model.n_in=8",
        "model.n_out=2",
        "model.hidden=8",
        "callbacks=[signals]",
        f"+callbacks.witness={{_target_: tests.e2e.user.Witness, path: {folder}.seen, batch_ms: {batch_ms}}}",
        f"n_epoch={n_epoch}",
        f"hydra.run.dir={folder}",
        *args,
    ]


class TrainingRun:
    """`python -m nntrain.run` in a process, killed at the latest when the context is left.

    Args:
        cwd: where it is started.
        args: its arguments, with those of `small`.
        folder: the folder of the run, seen from there; what it prints goes to `FOLDER.out`.
        env: environment variables of its own.
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
        """What it has printed."""
        return self._beside("out").read_text()

    @property
    def record(self) -> RunRecord:
        """Its journal."""
        return read_journal(self.folder)

    @property
    def seen(self) -> list[tuple[float, float]]:
        """The time in ms and the loss of each training batch, as the user's own callback has noted them."""
        path = self._beside("seen")
        data = path.read_bytes() if path.exists() else b""
        return list(struct.iter_unpack("dd", data[: len(data) // 16 * 16]))

    def wait_for_batches(self, n: int) -> None:
        """Waits until so many are trained."""
        wait_until(lambda: self.lives() and len(self.seen) >= n, f"{n} batches in {self.folder}")

    def lives(self) -> bool:
        """True; fails with what it has printed if it has ended."""
        assert self.process.poll() is None, self.output
        return True

    def wait(self, timeout_s: float = 90) -> int:
        """Waits for its end; returns the exit code."""
        return int(self.process.wait(timeout_s))

    def shipper(self) -> psutil.Process:
        """The process that ships for it."""
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
    """`python -m nntrain.sync`, finished, with what it printed."""
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
    """The processes that work in a folder, whoever their parent is now."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _works_in(process, folder)
    ]


def _works_in(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder)
    return False


# --- what is left


@dataclass
class StoredRun:
    """What MLflow's database holds of a run."""

    status: str = ""
    end_time: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    points: Points = field(default_factory=dict)


def stored_run(database: Path, uid: str) -> StoredRun | None:
    """The one run of that `uid` in MLflow's database; `None` if there is none yet."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30) as connection:
        found = connection.execute(
            "SELECT run_uuid FROM tags WHERE key = 'nntrain.run' AND value = ?", [uid]
        ).fetchall()
        return _stored(connection, found[0][0]) if found else None


def n_runs(database: Path) -> int:
    """How many runs there are."""
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
        if not key.startswith("system/"):  # what the shipper measures is in no journal
            points[key].append((step, time_ms, exact(math.nan if is_nan else value)))
    return StoredRun(status, end_time, tags, dict(points))


def exact(value: float) -> str:
    """A number in full, so that NaN equals NaN."""
    return "nan" if math.isnan(value) else repr(float(value))


def journal_points(record: RunRecord) -> Points:
    """The points of a journal."""
    return {
        key: [
            (int(step), int(time_ms), exact(value))
            for step, time_ms, value in zip(series.step, series.time_ms, series.value, strict=True)
        ]
        for key, series in record.metrics.items()
    }


def without_time(points: Points) -> dict[str, list[tuple[int, str]]]:
    """The points by step and value."""
    return {key: [(step, value) for step, _, value in series] for key, series in points.items()}


def wandb_points(run: WandbRun) -> dict[str, list[tuple[int, str]]]:
    """The points of an offline run of W&B's, by step and value; W&B's own and the figures left out."""
    points = defaultdict(list)
    for row in run.history:
        for key, value in row.items():
            if key != "train_iter" and not key.startswith(("_", "plots/")):
                points[key].append((row["train_iter"], exact(value)))
    return dict(points)


def assert_delivered(record: RunRecord, database: Path) -> StoredRun:
    """MLflow holds the points of the journal, in its order, each of them once, and no others."""
    run = stored_run(database, record.run.uid)
    assert run is not None
    assert record.damaged == {}
    assert run.points == journal_points(record)
    return run


def assert_unhurt(run: TrainingRun, expected: list[float], batch_ms: float = 0.0) -> None:
    """The training has gone as one that is not tracked: its losses are equal to the last bit, and no step has waited."""
    times, losses = zip(*run.seen, strict=True)
    assert list(losses) == expected[: len(losses)]
    stalls = [after - before - batch_ms for before, after in pairwise(times)]
    assert max(stalls) <= LONGEST_STALL_MS


def assert_journal_is_whole(run: TrainingRun) -> None:
    """The journal has each batch that was trained."""
    losses = run.record.metrics["batch/loss"]
    assert losses.step.tolist() == list(range(1, len(run.seen) + 1))
    assert losses.value.tolist() == [loss for _, loss in run.seen]
