"""Sends undelivered records from all journals under the given folders to their trackers.

Runs go to your own trackers: those of the environment, or the one named by --to and --set. Where a
journal names another server or folder, the command says so and waits for --to-recorded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from nntrain.app.sync_delivery import backlog_of, deliver, tell
from nntrain.app.sync_destinations import (
    TRACKERS,
    Counts,
    Destination,
    Sync,
    asked_destination,
    destinations_of,
)
from nntrain.config.errors import ConfigError
from nntrain.config.targets import check_trusted_targets
from nntrain.config.trust import user_trust
from nntrain.integrations.journal.records import JOURNAL, JournalError, RunRecord, read_journal
from nntrain.integrations.journal.writer import is_being_written
from nntrain.integrations.shipping.continuation import latest_journal
from nntrain.integrations.shipping.delivery import PLURALS
from nntrain.integrations.shipping.lock import DeliveredByAnotherError, delivery_lock
from nntrain.integrations.shipping.state import error_text

NAMED_LINES = 20
"""Maximum number of wrong lines of a journal to print."""

_EXPECTED = (ConfigError, JournalError, DeliveredByAnotherError, OSError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 if all records are delivered, and 1 otherwise."""
    args = _parser().parse_args(argv)
    try:
        check_trusted_targets(args.trust)
        this = Sync(args, asked_destination(args), [*args.trust, *user_trust().targets])
    except (ConfigError, OSError) as err:
        return _mistake(err)
    unread: list[Exception] = []
    found = [one for folder in args.folders for one in _found(Path(folder), unread)]
    folders = ", ".join(map(repr, args.folders))
    codes = [_mistake(err) for err in unread]
    codes += [_synced(journal, this) for journal in dict.fromkeys(found)]
    are_here = [_tell_missing(*one, this) for one in this.continued.items()]
    _tell_unsupported(this.counts)
    if not (found or unread):
        tell(f"No {JOURNAL} found under {folders}.")
    elif not any(codes) and all(are_here):
        tell(f"All runs under {folders} are delivered.")
    return max(codes, default=0)


def _found(folder: Path, unread: list[Exception]) -> list[Path]:
    try:
        return list(journals(folder, unread.append))
    except (ConfigError, OSError) as err:
        unread.append(err)
        return []


def _mistake(err: Exception) -> int:
    told = str(err)
    if isinstance(err, OSError) and err.strerror and err.filename:
        told = f"{err.filename} cannot be used: {err.strerror}."
    tell(f"nntrain.sync: {told}", error=True)
    return 1


def _synced(journal: Path, this: Sync) -> int:
    try:
        return _attempt(lambda: sync(journal, this))
    except Exception as err:  # noqa: BLE001 - a journal of somebody else never stops the others
        return _mistake(ValueError(f"{journal} cannot be delivered: {error_text(err)}"))


def _attempt(work: Callable[[], bool]) -> int:
    """Returns 0 if some work succeeds, and 1 if it fails or raises an expected error."""
    try:
        return 0 if work() else 1
    except _EXPECTED as err:
        return _mistake(err)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m nntrain.sync", description=__doc__)
    parser.add_argument(
        "folders",
        nargs="*",
        default=["."],
        help="folders to search for journals, recursively (default: the current folder)",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="only list undelivered records, without asking any tracker; the exit code is 1 if "
        "there are any",
    )
    parser.add_argument(
        "--to",
        choices=list(TRACKERS),
        help="deliver to this tracker instead of the trackers that the run was recorded with",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings for --to"
    )
    parser.add_argument(
        "--to-recorded",
        action="store_true",
        help="deliver to the servers and folders that the journals name, even if they are not "
        "yours; your logins are sent only to those named by --login",
    )
    parser.add_argument(
        "--login",
        action="append",
        default=[],
        metavar="HOST",
        help="a server, with or without its port, that may receive your logins",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="send the runs from the start, for example because the tracker has lost them",
    )
    parser.add_argument(
        "--trust",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="your own packages that define trackers, or that models use",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=30.0,
        help="seconds to keep retrying while a tracker fails (default: 30)",
    )
    return parser


def journals(folder: Path, unread: Callable[[OSError], None]) -> Iterator[Path]:
    """Yields all journals in a folder, recursively; `folder` may also be a journal.

    Links to folders inside the folder are not followed.

    Args:
        folder: the folder.
        unread: receives the error of each folder that cannot be read.

    Raises:
        ConfigError: if the folder does not exist.
    """
    if not folder.exists():
        raise ConfigError(
            f"{folder} does not exist: pass the folder of a run, or a folder that contains runs."
        )
    if not folder.is_dir():
        yield folder
        return
    for place, folders, names in os.walk(folder, onerror=unread):
        folders.sort()
        if JOURNAL in (*folders, *names):
            yield Path(place, JOURNAL)


def sync(journal: Path, this: Sync) -> bool:
    """Delivers one journal, or lists its undelivered records if `--list` is given.

    Args:
        journal: the journal.
        this: the call of the command.

    Returns:
        Whether all records in the journal are delivered.
    """
    if journal.is_symlink():
        raise ConfigError(
            f"{journal} is a symbolic link: pass the folder of the run, "
            f"{Path(os.path.realpath(journal)).parent}."
        )
    if not journal.is_file():
        raise ConfigError(f"{journal} is not a regular file: remove it.")
    record = read_journal(journal)
    _tell_wrong(journal, record)
    if record.continued_by is not None:
        this.continued[journal] = record
        return not record.wrong
    this.journals.setdefault(record.run.uid, journal)
    destinations = destinations_of(record, this)
    if this.args.list:
        codes = [_attempt(partial(_list, journal, one)) for one in destinations]
    else:
        codes = _all_delivered(journal, record, destinations, this)
    return not any(codes) and not record.wrong


def _tell_missing(journal: Path, record: RunRecord, this: Sync) -> bool:
    """Tells the user if the journal that continues a run is not here, and returns whether it is."""
    if record.run.uid in this.journals or latest_journal(journal) != journal:
        return True
    tell(
        f"nntrain.sync: {journal} is continued by {record.continued_by}, which is not here: pass "
        "the folder of that run, which has the records of both.",
        error=True,
    )
    return False


def _all_delivered(
    journal: Path, record: RunRecord, destinations: Sequence[Destination], this: Sync
) -> list[int]:
    with delivery_lock(journal):
        return [_attempt(partial(deliver, journal, record, one, this)) for one in destinations]


def _tell_wrong(journal: Path, record: RunRecord) -> None:
    for number in record.wrong[:NAMED_LINES]:
        tell(f"nntrain.sync: {journal}, line {number}: {record.damaged[number]}", error=True)
    if len(record.wrong) > NAMED_LINES:
        n = len(record.wrong) - NAMED_LINES
        tell(f"nntrain.sync: {journal}: {n} more lines are wrong", error=True)


def _list(journal: Path, destination: Destination) -> bool:
    left = backlog_of(journal, destination)
    if left is not None:
        tell(f"{left}{', which is still running' if is_being_written(journal) else ''}.")
    return left is None


def _tell_unsupported(counts: Counts) -> None:
    for label, of_kinds in counts.items():
        numbers = ", ".join(f"{PLURALS.get(kind, kind)} ({n})" for kind, n in of_kinds.items())
        if numbers:
            tell(f"{label} does not store {numbers}: they stay in the journal.")
