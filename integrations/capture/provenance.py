"""Records the origin of a run: git commit, command line and package versions."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nntrain.config.redact import REDACTED, Redactor
from nntrain.integrations.tracker import ProcessInfo

_PACKAGES = ("nntrain", "numpy", "hydra-core", "mlflow", "optuna", "torch", "wandb")

NNTRAIN = ("-m", "nntrain.run")
"""The arguments of `python` that start nntrain's command line."""


GIT_TIMEOUT_S = 2.0
"""Maximum seconds to wait for git, which may hang on a network file system."""


class GitTags:
    """Asks git for a folder's commit in the background, while the data is loading.

    Args:
        folder: the folder.
        timeout_s: maximum time for the answer, in seconds; git is then ended.
    """

    def __init__(self, folder: Path, timeout_s: float = GIT_TIMEOUT_S) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._tags: dict[str, str] = {}
        self._thread = threading.Thread(target=self._ask, args=(folder,), daemon=True)
        self._thread.start()

    def _ask(self, folder: Path) -> None:
        self._tags = _git_tags(folder, self._deadline)

    def __call__(self) -> dict[str, str]:
        """Returns tags with the commit and the branch; waits until git has answered.

        The tag `nntrain.git.dirty` says whether tracked files have uncommitted changes. The result
        is `{}` outside a git repository, and if git does not answer in time.
        """
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return self._tags


def _git_tags(folder: Path, deadline: float) -> dict[str, str]:
    at = _git(folder, deadline, "rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    changes = at and _git(folder, deadline, "status", "--porcelain", "--untracked-files=no")
    if not at or changes is None:
        return {}
    commit, branch = at.splitlines()
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch,
        "nntrain.git.commit": commit,
        "nntrain.git.dirty": str(bool(changes)).lower(),
    }


def git_hangs(folder: Path, timeout_s: float = GIT_TIMEOUT_S) -> bool:
    """Returns whether git does not answer in a folder within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    _git(folder, deadline, "rev-parse", "--show-toplevel")
    return time.monotonic() >= deadline


def _git(folder: Path, deadline: float, *args: str) -> str | None:
    if shutil.which("git") is None:
        return None
    with subprocess.Popen(
        ["git", "--no-optional-locks", "-C", str(folder), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and the programs that git started
            return None
    return out.decode("utf-8", "replace").strip() if process.returncode == 0 else None


def version_tags() -> dict[str, str]:
    """Returns tags with the versions of Python and of the packages that affect results."""
    tags = {"nntrain.version.python": platform.python_version()}
    for name in _PACKAGES:
        try:
            tags[f"nntrain.version.{name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if (torch := sys.modules.get("torch")) is not None:
        # torch.__version__ includes the build, for example +cu130
        tags["nntrain.version.torch"] = str(torch.__version__)
    return tags


def command_tags(
    argv: Sequence[str], redactor: Redactor, program: Sequence[str] = NNTRAIN
) -> dict[str, str]:
    """Returns tags with the user name and the command line; secrets are removed.

    Args:
        argv: `sys.argv`.
        redactor: removes the secrets.
        program: the program that `python` runs: a script, or `-m` and a module.
    """
    command = shlex.join(["python", *program, *_safe_args(argv[1:], redactor)])
    source = {"mlflow.source.name": program[-1], "mlflow.source.type": "LOCAL"}
    return {"nntrain.command": command, **source, "mlflow.user": _user()}


def running_program() -> list[str]:
    """Returns the program that this process runs: `-m` and a module name, or a script path."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [sys.argv[0]] if spec is None else ["-m", spec.name.removesuffix(".__main__")]


def _safe_args(args: Sequence[str], redactor: Redactor) -> list[str]:
    """Replaces secret values passed as `key=value`, `--key=value` or `--key value`."""
    before = ["", *args]
    return [
        REDACTED if _is_secret_value(flag, arg, redactor) else redactor.override(arg)
        for flag, arg in zip(before, args, strict=False)
    ]


def _is_secret_value(flag: str, arg: str, redactor: Redactor) -> bool:
    is_flag = flag.startswith("-") and "=" not in flag
    return is_flag and not arg.startswith("-") and redactor.is_secret(flag.lstrip("-"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # in a container, the user id may have no name
        return "unknown"


def process_info(redactor: Redactor) -> ProcessInfo:
    """Returns a description of this process, with secrets removed from its arguments."""
    args = _safe_args(sys.argv[1:], redactor)
    return ProcessInfo(
        os.getpid(), platform.node(), str(Path.cwd()), sys.argv[0], args, sys.executable
    )


def provenance_tags(redactor: Redactor, program: Sequence[str] = NNTRAIN) -> dict[str, str]:
    """Returns tags with the versions, command line and folder of this process."""
    return {
        **version_tags(),
        **command_tags(sys.argv, redactor, program),
        "nntrain.cwd": redactor.text(str(Path.cwd())),
    }
