"""Converts a tracker to a spec (its class and settings as plain values) and back.

The training process calls `spec_of`; the shipper creates the tracker again with `tracker_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from nntrain.config.errors import ConfigError
from nntrain.config.instantiate import Node, instantiate
from nntrain.config.redact import redact
from nntrain.config.targets import check_path, in_packages, resolve_target
from nntrain.integrations.tracker import Tracker

_SHOWN = ("tags", "notes")
"""Settings that a tracker shows with the run; others, such as a login, are for the connection."""

OWN = "nntrain.integrations"
"""The package whose trackers are always trusted."""


def spec_of(tracker: Tracker) -> dict[str, Any]:
    """Returns the class of a tracker as `_target_`, and its settings as plain values.

    Raises:
        ConfigError: if the tracker is not a dataclass.
    """
    _check_class(type(tracker), "tracker")
    settings = {
        setting.name: _plain(getattr(tracker, setting.name))
        for setting in fields(tracker)  # type: ignore[arg-type]  # checked above
        if setting.init
    }
    return {"_target_": _target(type(tracker)), **settings}


def resolved(tracker: Tracker) -> Tracker:
    """Returns the tracker with all settings, without secrets in those that it shows."""
    found = tracker.resolved()
    shown = {name: _plain(value) for name in _SHOWN if (value := getattr(found, name, None))}
    safe = {name: redact(value) for name, value in shown.items()}
    return replace(found, **safe) if safe != shown else found  # type: ignore[type-var]


def tracker_of(spec: Node, trusted: Sequence[str] = (), key: str = "tracker") -> Tracker:
    """Creates a tracker from its spec.

    A spec may come from an untrusted journal. Its class must be a dataclass that derives from
    `Tracker` and is one of nntrain's own or in a trusted package. The class is checked before any
    of its code runs.

    Args:
        spec: the class as `_target_`, and the settings.
        trusted: packages that may define the class, in addition to nntrain's own trackers.
        key: the name of the spec in error messages.

    Raises:
        ConfigError: if the class is not trusted, does not exist or does not accept the settings.
    """
    target = spec.get("_target_")
    check_path(target, trusted, key)
    if not in_packages(str(target), (OWN, *trusted)):  # another class that a configuration may use
        raise ConfigError(f"{key}._target_={target} is not trusted as a tracker.")
    _check_class(resolve_target(str(target), trusted, key), key)
    made: Tracker = instantiate({**spec, "_recursive_": False, "_partial_": False}, key, trusted)
    return made


def package_of(tracker: Tracker) -> str | None:
    """Returns the top-level package that defines a tracker's class; `None` for nntrain's own."""
    module = type(tracker).__module__
    return None if in_packages(module, [OWN]) else module.split(".")[0]


def _check_class(found: Any, key: str) -> None:
    """Checks that an object is a tracker class.

    Raises:
        ConfigError: if the object is anything else.
    """
    if not (isinstance(found, type) and issubclass(found, Tracker) and is_dataclass(found)):
        name = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', found)}"
        raise ConfigError(
            f"{key}._target_={name} is not a tracker class: "
            "use a dataclass that derives from nntrain.integrations.tracker.Tracker."
        )


def _target(kind: type[Tracker]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _plain(value: Any) -> Any:
    """Converts mappings to dicts and sequences to lists, recursively."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
