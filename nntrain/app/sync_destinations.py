"""Where `python -m nntrain.sync` delivers a journal: the user's own trackers, unless they ask."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from nntrain.config.errors import ConfigError
from nntrain.config.instantiate import Node
from nntrain.config.redact import REDACTED
from nntrain.config.targets import in_packages, resolve_target
from nntrain.integrations.journal.records import RunRecord
from nntrain.integrations.shipping.backlog import sync_command
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.destinations import (
    Place,
    at_home,
    elsewhere,
    hosts,
    is_configured,
    is_named,
    without_logins,
)
from nntrain.integrations.shipping.fitting import encodable
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
            the journal are used if they name the same place.
        is_asked: whether the user has named this destination with `--to`.
    """

    name: str
    label: str
    spec: Node
    is_default: bool = False
    is_asked: bool = False


@dataclass
class Sync:
    """One call of the command.

    Attributes:
        args: the arguments of the command.
        asked: the destination for `--to`, or `None`.
        trusted: the packages that the user trusts.
        counts: numbers of records that trackers do not store, by tracker and kind of record.
        silent: the trackers that did not answer; they are not asked again.
        journals: the first journal of each run, by the id of the run.
        continued: the journals that another journal continues.
    """

    args: argparse.Namespace
    asked: Destination | None
    trusted: Sequence[str]
    counts: Counts = field(default_factory=lambda: defaultdict(Counter))
    silent: set[str] = field(default_factory=set)
    journals: dict[str, Path] = field(default_factory=dict)
    continued: dict[Path, RunRecord] = field(default_factory=dict)

    def command(self, journal: Path, *options: str) -> str:
        """Returns the command that calls `sync` for a run as this call does, with more options."""
        args = self.args
        given = ["--to", args.to] if args.to else []
        given += ["--set", *args.set] if args.set else []
        given += ["--to-recorded"] if args.to_recorded else []
        given += [word for host in args.login for word in ("--login", host)]
        given += ["--trust", *args.trust] if args.trust else []
        return sync_command(journal.parent, f" {shlex.join([*given, *options])}")


def asked_destination(args: argparse.Namespace) -> Destination | None:
    """Returns the destination for `--to` and `--set`; different settings get different names.

    Raises:
        ConfigError: if a setting is invalid.
    """
    if args.to is None:
        if args.set:
            raise ConfigError("--set requires --to: name the tracker that the settings are for.")
        return None
    settings = dict(_setting(text) for text in args.set)
    _check_names(args.to, settings)
    spec = spec_of(_tracker({"_target_": TRACKERS[args.to], **settings}, (), "--set"))
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return Destination(f"{args.to}-{digest}", args.to, spec, is_default=not settings, is_asked=True)


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


def destinations_of(record: RunRecord, this: Sync) -> list[Destination]:
    """Returns the trackers that receive a journal."""
    recorded = [
        Destination(name, name, _without_logins(spec)) for name, spec in record.trackers.items()
    ]
    if (asked := this.asked) is None:
        return recorded
    same = [replace(one, is_asked=True) for one in recorded if _is_meant(one.spec, asked)]
    return same or [asked]


def _is_meant(spec: Node, asked: Destination) -> bool:
    """Returns whether a recorded tracker matches `--to` and `--set`."""
    if spec == asked.spec:
        return True
    if not asked.is_default or spec.get("_target_") != asked.spec["_target_"]:
        return False
    with suppress(ConfigError):
        return is_configured(_tracker(spec, ()))
    return False


def _without_logins(spec: Node) -> dict[str, Any]:
    """Removes masked logins from the settings; the tracker reads its login from the environment."""
    return {
        key: re.sub(rf"{re.escape(REDACTED)}@", "", value) if isinstance(value, str) else value
        for key, value in spec.items()
    }


def _tracker(spec: Node, trusted: Sequence[str], key: str = "tracker") -> Tracker:
    target = spec.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"{key} has no _target_: expected the class of a tracker.")
    if not in_packages(target, (OWN, *trusted)):
        package = target.split(".")[0]
        if not package.isidentifier():
            raise ConfigError(f"{key}._target_={target} is not the class of a tracker.")
        raise ConfigError(
            f"{target} is not trusted: add '--trust {package}' if you trust its code."
        )
    if encodable(spec) != spec:
        raise ConfigError(f"{key} has a text that cannot be encoded: pass --to and --set.")
    try:
        return tracker_of(spec, trusted, key).resolved()
    except (AttributeError, TypeError, ValueError) as err:
        raise err if isinstance(err, ConfigError) else ConfigError(f"{key}: {err}") from err


def prepared(journal: Path, destination: Destination, this: Sync) -> Delivery:
    """Returns the delivery to a destination that the user has named, or that is their own.

    Raises:
        ConfigError: if the tracker is not trusted, or names a place that is not the user's own.
    """
    key = f"tracker.{destination.label}"
    tracker = _tracker(destination.spec, this.trusted, key)
    confined = False
    if not destination.is_asked:
        if (other := elsewhere(tracker)) and not this.args.to_recorded:
            raise ConfigError(_told_elsewhere(journal, destination.label, other))
        is_named_server = bool(hosts(other)) and not _unnamed(tracker, destination, this)
        confined = not (is_configured(tracker) or is_named_server)
        tracker = at_home(tracker)
    name = destination.name
    return Delivery(journal, name, tracker, lambda record: this.trusted, confined=confined)


def _told_elsewhere(journal: Path, label: str, other: Sequence[Place]) -> str:
    there = " and ".join(place.there for place in other)
    here = " and ".join(place.here for place in other)
    instead = f", or --to {label} to send the run to yours" if label in TRACKERS else ""
    return (
        f"{journal} names {there} for {label}, but your settings name {here}: add --to-recorded to "
        f"send the run there{instead}."
    )


@contextmanager
def connection(delivery: Delivery, destination: Destination, this: Sync) -> Iterator[None]:
    """Hides the user's logins while a server is contacted that the user has not named.

    Raises:
        ConfigError: if the tracker cannot be contacted without a login.
    """
    unnamed = _unnamed(delivery.tracker, destination, this)
    if unnamed and type(delivery.tracker).__module__ == "nntrain.integrations.wandb":
        raise ConfigError(
            f"W&B at {unnamed[0]} needs your login: add --login {shlex.quote(unnamed[0])} to send "
            "it there."
        )
    with without_logins() if unnamed else nullcontext():
        yield


def _unnamed(tracker: Tracker, destination: Destination, this: Sync) -> list[str]:
    """Returns the servers that the user has not named, so that they must not get any login."""
    if destination.is_asked:
        return []
    return [host for host in hosts(elsewhere(tracker)) if not is_named(host, this.args.login)]
