"""Starts `python -m nntrain.run` as a user does."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def nntrain_run(
    *args: str, cwd: Path | None = None, timeout_s: float = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m nntrain.run` and returns the finished process with its output."""
    return subprocess.run(
        [sys.executable, "-m", "nntrain.run", *args],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(
    ["nntrain.run", "nntrain.sweeps.sweep", "sklearn.datasets", "torch._dynamo"]
)


def warm_nntrain_run(
    *args: str, cwd: Path, logs: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    """Like `nntrain_run`, but faster: forks a process that has already imported everything.

    Args:
        args: arguments of the command line.
        cwd: working directory.
        logs: folder for the output, different from `cwd`.
        env: additional environment variables.
    """
    process = _WARM.Process(target=_run, args=(args, cwd, logs, {"OMP_NUM_THREADS": "1", **env}))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run has not ended within 120 s"
    out, err = ((logs / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(args, process.exitcode, out, err)


def _run(args: Sequence[str], cwd: Path, logs: Path, env: Mapping[str, str]) -> None:
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.environ.update(env)
    os.chdir(cwd)
    sys.dont_write_bytecode = True
    sys.path.insert(0, "")
    sys.argv = ["nntrain.run", *args]
    from nntrain import run

    run.main()


def tree(folder: Path) -> dict[str, bytes]:
    """Returns the contents of all files below a folder by name; folder names end with a slash."""
    return {
        str(path.relative_to(folder)) + ("/" if path.is_dir() else ""): b""
        if path.is_dir()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }
