"""Builds the settings of a run for `wandb.init`."""

from __future__ import annotations

import logging
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import wandb

from nntrain.integrations.tracker import ProcessInfo, Refused, RunInfo
from nntrain.integrations.wandb import WandbTracker

_LOG = logging.getLogger("nntrain.wandb")

STUDY = "study"
"""The job type of a study's own run, which distinguishes it from the runs of its trials."""

INIT_TIMEOUT_S = 10.0
"""Seconds that `WandbClient.start` waits for the server."""

UPLOAD_TIMEOUT_S = 300.0
"""Seconds after which W&B aborts an upload; delivery then starts the run again.

Artifact uploads have no time limit. W&B's service process may outlive this process by this time.
"""

FLUSH_S = 1.0
"""Seconds between two flushes of W&B's own file; W&B's default is 15."""


def run_settings(tracker: WandbTracker, run: RunInfo, uid: str) -> wandb.Settings:
    """Combines the user's settings with settings that describe the training process.

    Raises:
        Refused: if W&B will never accept a setting.
    """
    settings = {**_process_settings(run), **_user_settings(tracker, run), "run_id": uid}
    with refusals(wandb.errors.UsageError):
        return wandb.Settings(
            **{key: value for key, value in settings.items() if value is not None},
            silent=True,
            console="off",
            label_disable=True,
            reinit="create_new",
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=UPLOAD_TIMEOUT_S,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSH_S,
            stop_fn=_ignore_stop,
        )


def _user_settings(tracker: WandbTracker, run: RunInfo) -> dict[str, Any]:
    return {
        "project": tracker.project,
        "entity": tracker.entity,
        "run_group": tracker.group or run.group or None,
        "run_job_type": STUDY if run.is_study else tracker.job_type,
        "run_name": tracker.run_name or run.name,
        "run_tags": tuple(tracker.tags),
        "run_notes": tracker.notes,
        "mode": tracker.mode,
        "resume": "allow" if tracker.mode == "online" else None,
        "root_dir": tracker.dir,
        "base_url": tracker.base_url,
    }


def _process_settings(run: RunInfo) -> dict[str, Any]:
    process = run.process
    script, is_here = _script(process), process.host in ("", platform.node())
    return {
        "host": process.host or None,
        "program": process.program or "<python with no main file>",
        "program_abspath": str(script or ""),
        "program_relpath": _relative(script, process.cwd),
        "x_executable": process.executable or None,
        "git_root": process.cwd or None,
        "x_stats_pid": process.pid,
        "x_disable_stats": not (is_here and _is_training(process.pid, run.time_ms)),
        "x_disable_machine_info": not is_here,
        "x_save_requirements": is_here,
    }


def _script(process: ProcessInfo) -> Path | None:
    path = Path(process.cwd, process.program)
    with suppress(OSError):  # for example a path that is too long
        return path if path.is_file() else None
    return None


def _relative(script: Path | None, folder: str) -> str:
    return str(script.relative_to(folder)) if script and script.is_relative_to(folder) else ""


def _is_training(pid: int, time_ms: int) -> bool:
    """Returns whether the training process is alive and its process id was not reused."""
    try:
        return bool(psutil.Process(pid).create_time() * 1000 < time_ms + 1000)
    except (psutil.Error, ValueError):
        return False


def _ignore_stop() -> None:
    """Ignores the Stop button on W&B's page, which would interrupt this process."""
    _LOG.warning("the Stop button on W&B's page does not stop training: stop the training process.")


@contextmanager
def refusals(*final: type[Exception]) -> Iterator[None]:
    """Context manager that converts errors to `Refused` if W&B will never accept a value.

    Args:
        final: exception types to convert in addition to `ValueError` and `TypeError`.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, TypeError, *final)
    try:
        yield
    except kinds as err:
        raise Refused(" ".join(str(err).split())) from err


def remove_offline(folder: Path, uid: str) -> None:
    """Removes the earlier offline folders of this run, because the whole run is sent again."""
    name = re.compile(rf"offline-run-\d{{8}}_\d{{6}}-{re.escape(uid)}(-\d+)?")
    for old in folder.glob("offline-run-*"):
        match = name.fullmatch(old.name)
        if match and (match[1] is None or (old / f"run-{uid}.wandb").is_file()):
            shutil.rmtree(old)
