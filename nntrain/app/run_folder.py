"""Functions for the folder of a run."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from nntrain.config.door import write_yaml
from nntrain.config.errors import ConfigError
from nntrain.config.quoting import shell_override
from nntrain.config.redact import Redactor
from nntrain.integrations.journal.files import FOLDER as FILES
from nntrain.integrations.journal.records import JOURNAL
from nntrain.integrations.journal.writer import is_being_written
from nntrain.integrations.shipping.continuation import latest_journal
from nntrain.integrations.shipping.state import FOLDER as DELIVERY

CHECKPOINT = "last.ckpt"
"""The file name of the checkpoint from which a run resumes."""

_CONFIG, _OVERRIDES = ".hydra/config.yaml", ".hydra/overrides.yaml"

_MARKS = (JOURNAL, CHECKPOINT, _CONFIG, _OVERRIDES)
"""The files by which the folder of a run is recognized, with or without a tracker."""

_WRITTEN = (
    ".hydra",
    _CONFIG,
    _OVERRIDES,
    JOURNAL,
    FILES,
    DELIVERY,
    "run.log",
    "console.log",
    "shipper.log",
)
"""The files and folders that are written in place; a checkpoint replaces a link of its name."""

CLOSE_WAIT_S = 10.0
"""Maximum seconds to wait for the processes of a killed run, which close its journal."""


# --- checks before anything is written


def check_run_folder(folder: Path, resume: Path | None) -> None:
    """Checks that a new run can be written to a folder without changing another run.

    Args:
        folder: the folder of the new run.
        resume: the checkpoint or the run folder to resume from. A run may resume in its own folder.

    Raises:
        ConfigError: if the folder contains another run or cannot be created.
    """
    _check_writable(folder)
    _check_subfolders(folder)
    _check_links(folder)
    of_resumed = None if resume is None else folder_of(resume)
    if any((folder / mark).exists() for mark in _MARKS) and not _is_same(folder, of_resumed):
        raise _holds_a_run(folder)


def folder_of(resume: Path) -> Path:
    """Returns the folder of the run to resume from, given its folder or its checkpoint."""
    return resume if resume.is_dir() else resume.parent


def _is_same(folder: Path, other: Path | None) -> bool:
    return other is not None and other.exists() and folder.samefile(other)


def _holds_a_run(folder: Path) -> ConfigError:
    remedy = "choose another folder"
    if (folder / CHECKPOINT).is_file():
        remedy += f", or continue that run with {shell_override('resume', str(folder))}"
    return ConfigError(f"hydra.run.dir={folder} already contains a run: {remedy}.")


def _check_writable(folder: Path) -> None:
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        _check_names(folder.relative_to(there).parts, there)
    except OSError as err:
        raise _no_folder(folder, os.strerror(err.errno) if err.errno else str(err)) from err
    if not there.is_dir():
        raise _no_folder(folder, f"{there} is not a folder")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".nntrain-", dir=there))
    except OSError as err:
        raise _no_folder(folder, f"{there} is not writable: {os.strerror(err.errno or 0)}") from err


def _check_subfolders(folder: Path) -> None:
    for name in (".hydra", FILES, DELIVERY):
        path = folder / name
        if path.exists() and not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
            raise _no_folder(folder, f"{path} is not a folder that you can write to")


def _check_links(folder: Path) -> None:
    """Checks that no file or folder of a run, which may come from somebody else, is a link."""
    for name in _WRITTEN:
        if (path := folder / name).is_symlink():
            raise ConfigError(
                f"{path} is a symbolic link, which nntrain does not follow when it writes: "
                "remove the link."
            )


def _check_names(names: Sequence[str], there: Path) -> None:
    longest = os.pathconf(there, "PC_NAME_MAX")
    for name in names:
        if len(os.fsencode(name)) > longest:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _no_folder(folder: Path, reason: str) -> ConfigError:
    text = str(folder)
    shown = text if len(text) <= 300 else f"{text[:100]}...{text[-50:]}"
    return ConfigError(
        f"hydra.run.dir={shown} cannot be created ({reason}): choose another folder."
    )


def check_resumable(resume: Path, *, tracked: bool) -> None:
    """Checks that the run to resume from has ended, and that it is still the end of its curve.

    Args:
        resume: the checkpoint or the run folder to resume from.
        tracked: whether the resumed run continues the run in the trackers.

    Raises:
        ConfigError: if a process is still writing its journal after `CLOSE_WAIT_S`; or if the run
            was continued in another folder that has its own checkpoint, because the trackers would
            mix the points of both; or if the folder of a tracked run may not be written.
    """
    journal = folder_of(resume) / JOURNAL
    if not journal.is_file():
        return
    _wait_until_closed(journal, resume)
    if not tracked:
        return
    latest = latest_journal(journal)
    _check_continuable(latest, resume)
    if latest == journal:
        return
    _wait_until_closed(latest, resume)
    if (latest.parent / CHECKPOINT).is_file():
        raise ConfigError(
            f"resume={resume} was already continued in {latest.parent}, and the trackers would mix "
            f"the points of both: use {shell_override('resume', str(latest.parent))}, or repeat "
            "this part without a tracker (tracker=none)."
        )


def _check_continuable(journal: Path, resume: Path) -> None:
    """Checks that the earlier run can be marked as continued, so that nobody continues it twice."""
    used = (journal.parent, journal, journal.parent / DELIVERY)
    for path in used:
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(
                f"resume={resume} cannot be continued in the trackers because {path} may not be "
                "written: copy the folder, or add tracker=none."
            )


def _wait_until_closed(journal: Path, resume: Path) -> None:
    deadline = time.monotonic() + CLOSE_WAIT_S
    while is_being_written(journal):
        if time.monotonic() >= deadline:
            where = "" if journal.parent == folder_of(resume) else f" in {journal.parent}"
            raise ConfigError(
                f"resume={resume} is still running{where}: stop that run first, or wait until it "
                "ends."
            )
        time.sleep(0.1)


# --- the configuration


def write_config(
    folder: Path,
    cfg: DictConfig,
    overrides: Sequence[str],
    redactor: Redactor,
    *,
    replace: bool = False,
) -> None:
    """Writes `.hydra/config.yaml`, unresolved and without secrets, and `.hydra/overrides.yaml`.

    Args:
        folder: the folder of the run.
        cfg: the configuration.
        overrides: the overrides from the command line, without secrets.
        redactor: removes the secrets.
        replace: replace the files of an earlier run, which continues in the same folder.

    Raises:
        ConfigError: if another run has begun in this folder, or the folder cannot be written.
    """
    plain = redactor.value(OmegaConf.to_container(cfg, resolve=False))
    try:
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        _write_new(folder, plain, "w" if replace else "x")
        write_yaml(folder / _OVERRIDES, list(overrides))
    except OSError as err:
        raise ConfigError(
            f"hydra.run.dir={folder} cannot be written ({os.strerror(err.errno or 0)}): choose "
            "another folder."
        ) from err


def _write_new(folder: Path, plain: Any, mode: Literal["w", "x"]) -> None:
    try:
        write_yaml(folder / _CONFIG, plain, mode)
    except FileExistsError as err:
        raise _holds_a_run(folder) from err


def remove_if_empty(folder: Path, since: float) -> None:
    """Removes a run folder and its two parent folders, if they are new and empty.

    Args:
        folder: the run folder.
        since: folders that were modified before this time (in seconds since the epoch) are kept.
    """
    for path in (folder, *list(folder.parents)[:2]):
        if path == Path.cwd() or path.stat().st_mtime < since or any(path.iterdir()):
            return
        path.rmdir()
