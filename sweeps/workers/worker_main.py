"""The process of a worker: gets its work through a pipe, and ends when the process that gave it has died."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOG = "trial.log"
"""The file in a trial's folder that has all that the worker printed while it ran."""

EXHAUSTED = 3
"""The exit code of a worker whose sampler has nothing left to try."""

UNREACHABLE = 4
"""The exit code of a worker whose storage has stopped answering."""

LAST_S = 30.0
"""Seconds that a worker has to interrupt its trial once the process that started it has died."""


@contextmanager
def to_file(folder: Path) -> Iterator[None]:
    """Sends what is printed, by whatever library, to the trial's own file."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(1), os.dup(2)]
    with open(folder / LOG, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, fd)
            os.close(kept)


def watch(fd: int) -> None:
    """Interrupts this process when the other end of the pipe is closed, which happens when its parent dies."""
    while os.read(fd, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_S)
    os._exit(1)


def main(fd: int) -> int:
    """Reads the work and does it; returns the exit code."""
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until it has a trial: numpy's imports swallow an exception, and stay half done
    with os.fdopen(os.dup(fd), "rb") as pipe:
        theirs = pickle.load(pipe)
        sys.path[:] = [
            *theirs,
            *(path for path in sys.path if path not in theirs),
        ]  # other machines need their own
        work: dict[str, Any] = pickle.load(pipe)
        work["slot"] = pickle.load(pipe)
    threading.Thread(target=watch, args=(fd,), name="nntrain-parent", daemon=True).start()
    from nntrain.sweeps.study.storage import STORAGE_ERRORS
    from nntrain.sweeps.workers.hydra_state import restored
    from nntrain.sweeps.workers.worker import Worker

    restored(work.pop("state"))
    try:
        worker = Worker(**work, log=to_file)
        worker.run()
    except STORAGE_ERRORS:
        traceback.print_exc()
        return UNREACHABLE
    return EXHAUSTED if worker.study.exhausted else 0


if __name__ == "__main__":
    code = main(int(sys.argv[1]))

    from nntrain.core.ending import end_process

    end_process(code)
