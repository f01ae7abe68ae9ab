"""`python -m nntrain.sync`: delivers what trackers have not got of the journals under the given folders."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nntrain.config.errors import ConfigError
from nntrain.config.redact import REDACTED
from nntrain.config.signature import check_call
from nntrain.config.targets import in_packages, resolve_target
from nntrain.integrations.journal.records import JOURNAL, JournalError, RunRecord, read_journal
from nntrain.integrations.journal.writer import is_being_written
from nntrain.integrations.mlflow import use_client_settings
from nntrain.integrations.shipping.delivery import (
    NOTES,
    DeliveredByAnotherError,
    Delivery,
    backlog,
    delivery_lock,
)
from nntrain.integrations.shipping.progress import DeliveryBar
from nntrain.integrations.shipping.shipper import close_journal, wait_s
from nntrain.integrations.shipping.spec import OWN, Node, node_of, tracker_of
from nntrain.integrations.tracker import Tracker

TRACKERS: Mapping[str, str] = {
    "mlflow": "nntrain.integrations.mlflow.MLflowTracker",
    "wandb": "nntrain.integrations.wandb.WandbTracker",
}
"""What `--to` may name."""


@dataclass(frozen=True)
class Destination:
    """A tracker to deliver to, by the name under which the state of the delivery is kept."""

    name: str
    node: Node
    is_default: bool = False
    """Whether all its settings are the defaults, so that those with which the run was recorded stand for them."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0 if everything is delivered, else 1."""
    args = _parser().parse_args(argv)
    use_client_settings()
    try:
        asked = _asked(args)
        found = [journal for folder in args.folders for journal in journals(Path(folder))]
    except ConfigError as err:
        return _mistake(err)
    if not found:
        print(f"There is no {JOURNAL} under {', '.join(map(repr, args.folders))}.")
        return 0
    code = max(_synced(journal, asked, args) for journal in dict.fromkeys(found))
    if code == 0:
        print(f"Nothing is undelivered under {', '.join(map(repr, args.folders))}.")
    return code


def _mistake(err: Exception) -> int:
    print(f"nntrain.sync: {err}", file=sys.stderr)
    return 1


def _synced(journal: Path, asked: Destination | None, args: argparse.Namespace) -> int:
    try:
        return 0 if sync(journal, asked, args) else 1
    except (ConfigError, JournalError, DeliveredByAnotherError, OSError) as err:
        return _mistake(err)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m nntrain.sync", description=__doc__)
    parser.add_argument(
        "folders",
        nargs="*",
        default=["."],
        help="folders to look in, and below; the current one by default",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="only say what is undelivered; exits with 1 if anything is",
    )
    parser.add_argument(
        "--to",
        choices=list(TRACKERS),
        help="deliver to this tracker, whichever the run was recorded with",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the tracker of --to"
    )
    parser.add_argument(
        "--trust",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="packages of your own that trackers are in",
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=30.0,
        help="seconds to go on with a tracker that takes nothing",
    )
    return parser


def journals(folder: Path) -> Iterator[Path]:
    """The journals in a folder and below; a journal itself is one.

    Raises:
        ConfigError: if there is no such folder.
    """
    if not folder.exists():
        raise ConfigError(
            f"{folder} does not exist: give the folder of a run, or one that holds such folders."
        )
    yield from [folder] if folder.is_file() else sorted(folder.rglob(JOURNAL))


def sync(journal: Path, asked: Destination | None, args: argparse.Namespace) -> bool:
    """Delivers one journal, or only says what is undelivered of it; returns whether it is delivered as far as asked for."""
    record = read_journal(journal)
    if record.continued_by is not None:
        return True
    destinations = _destinations(record, asked)
    if args.list:
        return _list(journal, destinations)
    with delivery_lock(journal):
        results = [_deliver(journal, destination, args) for destination in destinations]
    return all(results)


def _list(journal: Path, destinations: Sequence[Destination]) -> bool:
    missing = [
        left
        for destination in destinations
        if (left := backlog(journal, destination.name)) is not None
    ]
    for left in missing:
        print(f"{left}{', and the run goes on' if is_being_written(journal) else ''}.")
    return not missing


def _asked(args: argparse.Namespace) -> Destination | None:
    """The tracker of `--to`, the state of whose delivery has a name of its own for each store."""
    if args.to is None:
        if args.set:
            raise ConfigError("--set needs --to: name the tracker that the settings are of.")
        return None
    settings = dict(_setting(text) for text in args.set)
    _check_settings(args.to, settings)
    node = node_of(_tracker({"_target_": TRACKERS[args.to], **settings}, ()))
    digest = hashlib.sha256(json.dumps(node, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return Destination(f"{args.to}-{digest}", node, is_default=not settings)


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    tracker = resolve_target(TRACKERS[name], (OWN,), "tracker")
    known = [setting.name for setting in fields(tracker)]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"--set {key}: {name} has no such setting; choose from {', '.join(known)}."
            )
    check_call(tracker, {"_target_": TRACKERS[name], **settings}, "--set")


def _destinations(record: RunRecord, asked: Destination | None) -> list[Destination]:
    recorded = [Destination(name, _usable(node)) for name, node in record.trackers.items()]
    if asked is None:
        return recorded
    return [one for one in recorded if _is_meant(one.node, asked)] or [asked]


def _is_meant(node: Node, asked: Destination) -> bool:
    """Whether the tracker that a run was recorded with is the one of `--to`."""
    return node == asked.node or (
        asked.is_default and node.get("_target_") == asked.node["_target_"]
    )


def _setting(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(
            f"--set {text} is no setting: give KEY=VALUE, such as tracking_uri=http://127.0.0.1:5000."
        )
    return key, {"true": True, "false": False, "null": None}.get(value, value)


def _usable(node: Node) -> dict[str, Any]:
    """The settings with logins that were left out of the journal taken out whole; the environment gives them."""
    return {
        key: re.sub(rf"{re.escape(REDACTED)}@", "", value) if isinstance(value, str) else value
        for key, value in node.items()
    }


def _deliver(journal: Path, destination: Destination, args: argparse.Namespace) -> bool:
    tracker = _tracker(destination.node, args.trust)
    running = is_being_written(journal)
    if not running:
        close_journal(journal)
    delivery = Delivery(journal, destination.name, tracker)
    if delivery.is_current():
        return True
    with DeliveryBar([(journal, destination.name)]) as bar:
        _advance(delivery, bar, args.timeout_s)
    return _tell(delivery, running)


def _tracker(node: Node, trusted: Sequence[str]) -> Tracker:
    target = str(node.get("_target_"))
    if not in_packages(target, (OWN, *trusted)):
        raise ConfigError(
            f"{target} is not trusted: if it is a tracker of yours, add --trust {target.split('.')[0]}."
        )
    try:
        return tracker_of(node, trusted).settled()
    except (TypeError, ValueError, ImportError) as err:
        raise ConfigError(str(err)) from err


def _advance(delivery: Delivery, bar: DeliveryBar, timeout_s: float) -> None:
    """Delivers until there is nothing left, or nothing was taken for `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if not delivery.advance():
                return
            deadline = time.monotonic() + timeout_s
        except Exception as err:  # noqa: BLE001 - whatever a tracker's library raises, it is tried again
            delivery.failed(err)
            if time.monotonic() > deadline:
                return
            time.sleep(wait_s(delivery.state.n_tries))
        bar.draw()


def _tell(delivery: Delivery, running: bool) -> bool:
    left = backlog(delivery.journal, delivery.name)
    for note in delivery.state.notes:
        print(f"{delivery.journal}: {delivery.name}: {note}", file=sys.stderr)
    if delivery.state.n_refused > NOTES:
        print(
            f"{delivery.journal}: {delivery.name}: {delivery.state.n_refused} refused in all",
            file=sys.stderr,
        )
    if left is None or (running and left.error is None):
        print(f"{delivery.journal}: delivered.\n{delivery.state.where}")
        return True
    print(f"{left}: mend that, or deliver to another with --to and --set.", file=sys.stderr)
    return False
