"""A tracker as a configuration node, and back: how its settings travel to the shipper and into the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from nntrain.config.errors import ConfigError
from nntrain.config.targets import check_path, resolve_target
from nntrain.integrations.standin import run_whole_package
from nntrain.integrations.tracker import Tracker

Node = Mapping[str, Any]

OWN = "nntrain.integrations"
"""The package whose trackers are always trusted."""


def node_of(tracker: Any) -> dict[str, Any]:
    """The class of a tracker and its settings, as plain values."""
    settings = {
        setting.name: getattr(tracker, setting.name) for setting in fields(tracker) if setting.init
    }
    return {"_target_": f"{type(tracker).__module__}.{type(tracker).__qualname__}", **settings}


def tracker_of(node: Node, trusted: Sequence[str] = ()) -> Tracker:
    """The tracker that a node describes; only classes of `nntrain.integrations` and of the trusted packages are made.

    Raises:
        ConfigError: if the class is not trusted or does not exist, or refuses the settings.
    """
    target, settings = (
        node["_target_"],
        {key: value for key, value in node.items() if key != "_target_"},
    )
    check_path(target, (OWN, *trusted), "tracker")
    if not target.startswith(f"{OWN}."):
        run_whole_package()
    found = resolve_target(target, (OWN, *trusted), "tracker")
    if not (
        isinstance(found, type) and is_dataclass(found)
    ):  # a function that a stranger's journal names must not be called
        raise ConfigError(
            f"tracker._target_={target} is no dataclass, as every tracker is: name the class of a tracker."
        )
    made = found(**settings)
    if not isinstance(made, Tracker):
        raise ConfigError(
            f"tracker._target_={target} is no nntrain.integrations.tracker.Tracker: name the class of one."
        )
    return made
