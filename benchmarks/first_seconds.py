"""Interrupts and kills runs in their first seconds; counts the later runs and syncs that work.

Each trial starts a run in an empty folder, sends SIGINT to it, or SIGKILL to it and its shipper, at
a random time, then trains again in this folder and delivers the interrupted run. The database must
still work.

    python benchmarks/first_seconds.py --n 20 --busy 4
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SHORT = ["n_epoch=1", "tracker.finish_timeout_s=120", "hydra.run.dir=later"]
LONG = ["n_epoch=2000", "hydra.run.dir=first"]


@dataclass(frozen=True)
class Trial:
    """What happened after one interruption."""

    signum: signal.Signals
    after_s: float
    exit_code: int
    had_database: bool
    run_works: bool
    sync_works: bool
    output: str

    def __str__(self) -> str:
        verdict = "ok" if self.run_works and self.sync_works else f"FAULT\n{self.output}"
        database = "database" if self.had_database else "no database"
        when = f"{self.signum.name:7} after {self.after_s:.2f} s"
        return f"{when}, exit code {self.exit_code:4}, {database}: {verdict}"


@contextmanager
def load(n: int) -> Iterator[None]:
    """Keeps `n` processes busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def command(module: str, args: list[str], folder: Path) -> "subprocess.Popen[str]":
    """Starts a command of nntrain in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def trial(signum: signal.Signals, after_s: float) -> Trial:
    """Interrupts a run, and returns whether the folder can still be used."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        first = command("nntrain.run", LONG, folder)
        time.sleep(after_s)
        interrupt(first.pid, signum)
        first.communicate()
        had_database = (folder / "mlflow.db").exists()
        later = command("nntrain.run", SHORT, folder)
        output, _ = later.communicate()
        run_works = later.returncode == 0 and is_delivered(folder / "later")
        sync = command("nntrain.sync", ["."], folder)
        told, _ = sync.communicate()
        has_journal = (folder / "first" / "journal.jsonl").is_file()
        sync_works = sync.returncode == 0 and (not has_journal or is_delivered(folder / "first"))
        told = output + told
        return Trial(signum, after_s, first.returncode, had_database, run_works, sync_works, told)


def interrupt(pid: int, signum: signal.Signals) -> None:
    """Sends SIGINT to a process as Ctrl-C does, or SIGKILL to all of its processes."""
    process = psutil.Process(pid)
    children = process.children(recursive=True) if signum is signal.SIGKILL else []
    for one in (process, *children):
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signum)


def is_delivered(folder: Path) -> bool:
    """Returns whether MLflow has the whole run."""
    state = folder / "delivery" / "mlflow.json"
    return state.is_file() and json.loads(state.read_text())["done"] is True


def main() -> int:
    """Runs the trials, prints one line for each, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20, help="trials for each of the two signals")
    parser.add_argument("--busy", type=int, default=4, help="processes that load the machine")
    parser.add_argument("--seconds", type=float, default=6.0, help="latest time of the signal")
    parser.add_argument("--at-once", type=int, default=1, help="trials at the same time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # in the background, a shell ignores SIGINT, and the runs would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    draw = random.Random(args.seed)
    plan = [
        (signum, draw.uniform(0, args.seconds))
        for _ in range(args.n)
        for signum in (signal.SIGINT, signal.SIGKILL)
    ]
    with load(args.busy), ThreadPoolExecutor(args.at_once) as pool:
        done = []
        for one in pool.map(lambda drawn: trial(*drawn), plan):
            done.append(one)
            print(one, flush=True)
    runs, syncs = sum(one.run_works for one in done), sum(one.sync_works for one in done)
    print(f"{runs} of {len(done)} later runs and {syncs} of {len(done)} syncs work")
    return 0 if runs == syncs == len(done) else 1


if __name__ == "__main__":
    sys.exit(main())
