"""Sends undelivered records from all journals under the given folders to their trackers."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from nntrain.config.errors import ConfigError
from nntrain.config.instantiate import Node
from nntrain.config.redact import REDACTED
from nntrain.config.targets import in_packages, resolve_target
from nntrain.integrations.journal.closing import close_journal
from nntrain.integrations.journal.records import JOURNAL, JournalError, RunRecord, read_journal
from nntrain.integrations.journal.writer import is_being_written
from nntrain.integrations.shipping.backlog import Backlog, backlog
from nntrain.integrations.shipping.delivery import NOTES, PLURALS, Delivery
from nntrain.integrations.shipping.lock import DeliveredByAnotherError, delivery_lock
from nntrain.integrations.shipping.progress import DeliveryBar
from nntrain.integrations.shipping.shipper import wait_s
from nntrain.integrations.shipping.spec import OWN, spec_of, tracker_of
from nntrain.integrations.tracker import Tracker

TRACKERS: Mapping[str, str] = {
    "mlflow": "nntrain.integrations.mlflow.MLflowTracker",
    "tensorboard": "nntrain.integrations.tensorboard.TensorBoardTracker",
    "wandb": "nntrain.integrations.wandb.WandbTracker",
}
"""The choices for `--to`."""


Counts: TypeAlias = defaultdict[str, Counter[str]]
"""Numbers of records that trackers do not store, by tracker and kind of record."""


@dataclass(frozen=True)
class Destination:
    """A tracker that receives the records.

    Attributes:
        name: the name under which the delivery state is saved.
        label: the name of the tracker in messages.
        spec: the class and settings of the tracker.
        is_default: whether `--to` was given without `--set`. In this case, the settings recorded in
            the journal are used.
    """

    name: str
    label: str
    spec: Node
    is_default: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 if all records are delivered, and 1 otherwise."""
    args = _parser().parse_args(argv)
    try:
        asked = _asked(args)
        found = [journal for folder in args.folders for journal in journals(Path(folder))]
    except ConfigError as err:
        return _mistake(err)
    folders = ", ".join(map(repr, args.folders))
    if not found:
        print(f"No {JOURNAL} found under {folders}.")
        return 0
    counts: Counts = defaultdict(Counter)
    code = max(_synced(journal, asked, args, counts) for journal in dict.fromkeys(found))
    _tell_unsupported(counts)
    if code == 0:
        print(f"All runs under {folders} are delivered.")
    return code


def _mistake(err: Exception) -> int:
    print(f"nntrain.sync: {err}", file=sys.stderr)
    return 1


def _synced(
    journal: Path, asked: Destination | None, args: argparse.Namespace, counts: Counts
) -> int:
    try:
        return 0 if sync(journal, asked, args, counts) else 1
    except (ConfigError, JournalError, DeliveredByAnotherError, OSError) as err:
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
        help="only list undelivered records; the exit code is 1 if there are any",
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
        "--trust",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="your own packages that define trackers",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=30.0,
        help="seconds to keep retrying while a tracker fails (default: 30)",
    )
    return parser


def journals(folder: Path) -> Iterator[Path]:
    """Yields all journals in a folder, recursively; `folder` may also be a journal file.

    Raises:
        ConfigError: if the folder does not exist.
    """
    if not folder.exists():
        raise ConfigError(
            f"{folder} does not exist: pass the folder of a run, or a folder that contains runs."
        )
    yield from [folder] if folder.is_file() else sorted(folder.rglob(JOURNAL))


def sync(
    journal: Path, asked: Destination | None, args: argparse.Namespace, counts: Counts
) -> bool:
    """Delivers one journal, or lists its undelivered records if `--list` is given.

    Args:
        journal: the journal.
        asked: the destination for `--to`, or `None`.
        args: the arguments of the command.
        counts: the numbers of records that the trackers do not store; this delivery adds its own.

    Returns:
        Whether all records in the journal are delivered.
    """
    record = read_journal(journal)
    if record.continued_by is not None:
        return True
    destinations = _destinations(record, asked)
    if args.list:
        return _list(journal, destinations)
    with delivery_lock(journal):
        results = [_deliver(journal, destination, args, counts) for destination in destinations]
    return all(results)


def _list(journal: Path, destinations: Sequence[Destination]) -> bool:
    missing = [
        left for destination in destinations if (left := _backlog(journal, destination)) is not None
    ]
    for left in missing:
        print(f"{left}{', which is still running' if is_being_written(journal) else ''}.")
    return not missing


# --- destinations


def _asked(args: argparse.Namespace) -> Destination | None:
    """Returns the destination for `--to` and `--set`; different settings get different names."""
    if args.to is None:
        if args.set:
            raise ConfigError("--set requires --to: name the tracker that the settings are for.")
        return None
    settings = dict(_setting(text) for text in args.set)
    _check_names(args.to, settings)
    spec = spec_of(_tracker({"_target_": TRACKERS[args.to], **settings}, (), "--set"))
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return Destination(f"{args.to}-{digest}", args.to, spec, is_default=not settings)


def _setting(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(
            f"--set {text} must have the form KEY=VALUE, "
            "for example tracking_uri=http://127.0.0.1:5000."
        )
    return key, {"true": True, "false": False, "null": None}.get(value, value)


def _check_names(name: str, settings: Mapping[str, Any]) -> None:
    known = [item.name for item in fields(resolve_target(TRACKERS[name], (OWN,), "--to"))]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"Unknown setting --set {key} for {name}: choose from {', '.join(known)}."
            )


def _destinations(record: RunRecord, asked: Destination | None) -> list[Destination]:
    recorded = [
        Destination(name, name, _without_logins(spec)) for name, spec in record.trackers.items()
    ]
    if asked is None:
        return recorded
    return [one for one in recorded if _is_meant(one.spec, asked)] or [asked]


def _is_meant(spec: Node, asked: Destination) -> bool:
    """Returns whether a recorded tracker matches `--to` and `--set`."""
    return spec == asked.spec or (
        asked.is_default and spec.get("_target_") == asked.spec["_target_"]
    )


def _without_logins(spec: Node) -> dict[str, Any]:
    """Removes masked logins from the settings; the tracker reads its login from the environment."""
    return {
        key: re.sub(rf"{re.escape(REDACTED)}@", "", value) if isinstance(value, str) else value
        for key, value in spec.items()
    }


def _tracker(spec: Node, trusted: Sequence[str], key: str = "tracker") -> Tracker:
    target = str(spec.get("_target_"))
    if not in_packages(target, (OWN, *trusted)):
        package = target.split(".")[0]
        raise ConfigError(
            f"{target} is not trusted: add '--trust {package}' if you trust its code."
        )
    return tracker_of(spec, trusted, key).resolved()


# --- delivery


def _deliver(
    journal: Path, destination: Destination, args: argparse.Namespace, counts: Counts
) -> bool:
    tracker = _tracker(destination.spec, args.trust, f"tracker.{destination.label}")
    running = is_being_written(journal)
    if not running:
        close_journal(journal)
    delivery = Delivery(journal, destination.name, tracker)
    if delivery.is_current():
        return True
    with DeliveryBar([(journal, destination.name)]) as bar:
        _advance(delivery, bar, args.timeout_s)
    is_complete = _tell(delivery, destination, running)
    if is_complete:
        counts[destination.label].update(delivery.state.unsupported)
    return is_complete


def _advance(delivery: Delivery, bar: DeliveryBar, timeout_s: float) -> None:
    """Delivers until all records are sent, or the tracker has failed for `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if not delivery.advance():
                return
            deadline = time.monotonic() + timeout_s
        except Exception as err:  # noqa: BLE001 - retry after any exception from a tracker library
            delivery.failed(err)
            if time.monotonic() > deadline:
                return
            time.sleep(wait_s(delivery.state.n_tries))
        bar.draw()


def _tell(delivery: Delivery, destination: Destination, running: bool) -> bool:
    """Prints the result of a delivery; returns whether the delivery is complete."""
    left = _backlog(delivery.journal, destination)
    where = f"{delivery.journal}: {destination.label}"
    for note in delivery.state.notes:
        print(f"{where}: {note}", file=sys.stderr)
    if delivery.state.n_refused > NOTES:
        print(
            f"{where}: the tracker rejected {delivery.state.n_refused} records in total",
            file=sys.stderr,
        )
    if left is None or (running and left.error is None):
        print(f"{delivery.journal}: delivered.\n{delivery.state.where}")
        return True
    remedy = "fix the cause and run this command again, or use another tracker with --to and --set"
    print(f"{left}: {remedy}.", file=sys.stderr)
    return False


def _backlog(journal: Path, destination: Destination) -> Backlog | None:
    left = backlog(journal, destination.name)
    return None if left is None else replace(left, name=destination.label)


def _tell_unsupported(counts: Counts) -> None:
    for label, of_kinds in counts.items():
        numbers = ", ".join(f"{PLURALS[kind]} ({n})" for kind, n in of_kinds.items())
        if numbers:
            print(f"{label} does not store {numbers}: they stay in the journal.")
