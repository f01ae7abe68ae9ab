"""Records the origin of a run: git commit, command line and package versions."""

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

from nntrain.config.redact import REDACTED, Redactor
from nntrain.integrations.tracker import ProcessInfo

_PACKAGES = ("nntrain", "numpy", "hydra-core", "mlflow", "optuna", "torch", "wandb")

NNTRAIN = ("-m", "nntrain.run")
"""The arguments of `python` that start nntrain's command line."""


def git_tags(folder: Path) -> dict[str, str]:
    """Returns tags with a folder's git commit and branch, or `{}` outside a git repository.

    The tag `nntrain.git.dirty` says whether tracked files have uncommitted changes.
    """
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
    """Returns tags with the git commit, versions, command line and folder of this process."""
    return {
        **git_tags(Path.cwd()),
        **version_tags(),
        **command_tags(sys.argv, redactor, program),
        "nntrain.cwd": redactor.text(str(Path.cwd())),
    }
