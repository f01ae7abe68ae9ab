"""Where a run came from: code, command line and versions."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from nntrain.config.redact import Redactor
from nntrain.integrations.tracker import ProcessInfo

_PACKAGES = ("nntrain", "numpy", "hydra-core", "mlflow", "optuna", "wandb")


def git_tags(folder: Path) -> dict[str, str]:
    """The commit of the folder's repository and whether there are changes on top; nothing outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or ""
    dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch,
        "nntrain.git.commit": commit,
        "nntrain.git.dirty": str(dirty).lower(),
    }


def _git(folder: Path, *args: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "-C", str(folder), *args], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def version_tags() -> dict[str, str]:
    """The versions of Python and of the packages that decide the outcome."""
    tags = {
        "nntrain.version.python": platform.python_version(),
        "nntrain.version.torch": str(torch.__version__),
    }
    for name in _PACKAGES:
        try:
            tags[f"nntrain.version.{name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tags


def command_tags(argv: Sequence[str], redactor: Redactor) -> dict[str, str]:
    """The command line with secrets left out, and who ran it."""
    args = [redactor.override(arg) for arg in argv[1:]]
    command = shlex.join(["python", "-m", "nntrain.run", *args])
    source = {"mlflow.source.name": "nntrain.run", "mlflow.source.type": "LOCAL"}
    return {"nntrain.command": command, **source, "mlflow.user": _user()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may run under a number that has no name
        return "unknown"


def process_info(redactor: Redactor) -> ProcessInfo:
    """This process, its arguments without secrets."""
    args = [redactor.override(arg) for arg in sys.argv[1:]]
    return ProcessInfo(
        os.getpid(), platform.node(), str(Path.cwd()), sys.argv[0], args, sys.executable
    )


def provenance_tags(redactor: Redactor) -> dict[str, str]:
    """All of these, for this process."""
    folder = {"nntrain.cwd": redactor.text(str(Path.cwd()))}
    return {**git_tags(Path.cwd()), **version_tags(), **command_tags(sys.argv, redactor), **folder}
