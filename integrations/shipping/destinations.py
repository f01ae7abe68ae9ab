"""Compares where a journal wants to be delivered with where its user delivers to.

A journal may come from somebody else, so the server or the folder that it names is only data.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from nntrain.config.errors import ConfigError
from nntrain.config.redact import is_secret, redact
from nntrain.config.targets import in_packages
from nntrain.integrations.journal.records import read_journal
from nntrain.integrations.shipping.spec import OWN, package_of, tracker_of
from nntrain.integrations.tracker import Tracker

_LOGINS = (
    "AWS_",
    "AZURE_",
    "DATABRICKS_",
    "GCP_",
    "GOOGLE_",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MYSQL_",
    "NETRC",
    "PG",
    "WANDB_API_KEY",
)
"""The beginnings of the names of environment variables that log in to a server."""

_NOWHERE = {"NETRC": os.devnull, "PGPASSFILE": os.devnull}

_PORTS = {"http": 80, "https": 443}


def own_tracker(tracker: Tracker) -> Tracker | None:
    """Returns the tracker that the user's environment configures, of the same class.

    Returns `None` if the class cannot be created without settings, or if the environment is wrong.
    """
    try:
        return type(tracker)().resolved()
    except (TypeError, ConfigError):
        return None


@dataclass(frozen=True)
class Place:
    """A server or a local path that a tracker names, and the user's own one.

    Attributes:
        place: the server, as a URL, or the path.
        there: the place, for messages.
        here: the user's own place, for messages.
    """

    place: object
    there: str
    here: str


def elsewhere(tracker: Tracker) -> list[Place]:
    """Returns the places that a tracker names and that are not the user's own.

    The user's own places are those that the environment configures (for MLflow, the variable
    `MLFLOW_TRACKING_URI` or `mlflow.db` in the current folder), and all local paths inside the
    current folder.
    """
    own = own_tracker(tracker)
    mine = {} if own is None else own.destination()
    return [
        Place(place, _shown(place), _shown(mine.get(setting)))
        for setting, place in tracker.resolved().destination().items()
        if not _is_own(place, mine, setting)
    ]


def at_home(tracker: Tracker) -> Tracker:
    """Returns a tracker with the user's own settings where it names the same place.

    The user's own setting may contain a login, and needs no interpretation by two programs.
    """
    own = own_tracker(tracker)
    if own is None:
        return tracker
    mine = own.destination()
    same: dict[str, Any] = {
        setting: getattr(own, setting)
        for setting, place in tracker.resolved().destination().items()
        if setting in mine and _is_same(place, mine[setting])
    }
    return replace(tracker, **same)  # type: ignore[type-var]  # trackers are dataclasses


def is_configured(tracker: Tracker) -> bool:
    """Returns whether the user's environment names every place that a tracker names."""
    own = own_tracker(tracker)
    mine = {} if own is None else own.destination()
    return all(
        setting in mine and _is_same(place, mine[setting])
        for setting, place in tracker.resolved().destination().items()
    )


def hosts(places: Iterable[Place]) -> list[str]:
    """Returns the servers among some places, as `HOST:PORT` or `HOST`."""
    urls = (one.place for one in places if isinstance(one.place, str) and "://" in one.place)
    return [_host(urlsplit(url)) for url in urls]


def sync_options(*trackers: Tracker) -> str:
    """Returns the options with which `nntrain.sync` delivers to the trackers of this process."""
    packages = [package for tracker in trackers if (package := package_of(tracker)) is not None]
    other = [place for tracker in trackers for place in elsewhere(tracker)]
    options = [f"--trust {' '.join(dict.fromkeys(packages))}"] if packages else []
    options += ["--to-recorded"] if other else []
    options += [f"--login {shlex.quote(host)}" for host in dict.fromkeys(hosts(other))]
    return "".join(f" {option}" for option in options)


def recorded_options(journal: Path) -> str:
    """Returns the options with which `nntrain.sync` delivers a journal of this process.

    A tracker of the user's own package is not created again; its settings count as other ones.
    """
    specs = read_journal(journal).trackers.values()
    own = [spec for spec in specs if in_packages(str(spec.get("_target_")), [OWN])]
    packages = {str(spec.get("_target_")).split(".")[0] for spec in specs if spec not in own}
    options = sync_options(*map(tracker_of, own))
    if not packages:
        return options
    return f" --trust {' '.join(sorted(packages))} --to-recorded" + options.replace(
        " --to-recorded", ""
    )


def _host(url: SplitResult) -> str:
    name = url.hostname or ""
    return f"{name}:{url.port}" if url.port else name


def is_named(host: str, named: Iterable[str]) -> bool:
    """Returns whether the user has named a host, with or without its port."""
    return host in named or host.rpartition(":")[0] in named


def _is_own(place: object, mine: Mapping[str, object], setting: str) -> bool:
    if setting in mine and _is_same(place, mine[setting]):
        return True
    return isinstance(place, Path) and _is_here(place)


def _is_here(path: Path) -> bool:
    """Returns whether a path is inside the current folder, and is not hidden there."""
    here, path = Path.cwd().resolve(), path.resolve()
    if here.parent == here or not path.is_relative_to(here):
        return False
    return not any(part.startswith(".") for part in path.relative_to(here).parts)


def _is_same(there: object, here: object) -> bool:
    if isinstance(there, Path) and isinstance(here, Path):
        return there.resolve() == here.resolve()
    if isinstance(there, str) and isinstance(here, str) and "://" in there:
        return _parts(there) == _parts(here)
    return there == here


def _parts(url: str) -> tuple[object, ...]:
    """Returns what identifies a server: its URL without the login."""
    found = urlsplit(url)
    port = found.port or _PORTS.get(found.scheme)
    return found.scheme, found.hostname, port, found.path.rstrip("/"), found.query


def _shown(place: object) -> str:
    return "none" if place is None else str(redact(str(place)))


@contextmanager
def without_logins() -> Iterator[None]:
    """Hides the user's logins from all libraries: environment variables and files in `~`."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as home:
        for name in before:
            if name.startswith(_LOGINS) or is_secret(name):
                del os.environ[name]
        os.environ.update(_NOWHERE, HOME=home)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
