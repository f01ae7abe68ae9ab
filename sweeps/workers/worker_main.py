"""The main function of a worker process, which receives its arguments through a pipe."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from typing import Any

EXHAUSTED = 3
"""The exit code of a worker whose sampler has no configuration left."""

UNREACHABLE = 4
"""The exit code of a worker whose storage stopped responding."""

LAST_S = 30.0
"""Seconds in which a worker must end its trial after the parent process has died."""


def watch_parent(fd: int) -> None:
    """Interrupts this process when the parent dies, and exits `LAST_S` seconds later.

    When the parent dies, its end of the pipe closes, so `os.read` returns no data.
    """
    while os.read(fd, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_S)
    os._exit(1)


def main(fd: int) -> int:
    """Reads the arguments from a pipe and runs the worker; returns the exit code."""
    # SIGINT kills the process until a trial runs: numpy's imports would swallow a KeyboardInterrupt
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with os.fdopen(os.dup(fd), "rb") as pipe:
        theirs = pickle.load(pipe)
        # append this process's own paths, which may not exist in the parent process
        sys.path[:] = [*theirs, *(path for path in sys.path if path not in theirs)]
        work: dict[str, Any] = pickle.load(pipe)
        work["slot"] = pickle.load(pipe)
    threading.Thread(target=watch_parent, args=(fd,), name="nntrain-parent", daemon=True).start()
    from nntrain.sweeps.study.storage import STORAGE_ERRORS
    from nntrain.sweeps.workers.hydra_state import restore_hydra_state
    from nntrain.sweeps.workers.output import to_file
    from nntrain.sweeps.workers.worker import Worker

    restore_hydra_state(work.pop("state"))
    try:
        worker = Worker(**work, output=to_file)
        worker.run()
    except STORAGE_ERRORS:
        traceback.print_exc()
        return UNREACHABLE
    return EXHAUSTED if worker.study.exhausted else 0


if __name__ == "__main__":
    from nntrain.config.door import guard
    from nntrain.core.streams import open_streams

    open_streams()
    guard()
    code = main(int(sys.argv[1]))

    from nntrain.core.ending import end_process

    end_process(code)
