"""The trackers of a configured run: their settings, the shipper, and the callback that records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nntrain.app.build import make_all
from nntrain.config.errors import ConfigError
from nntrain.config.hints import nearest
from nntrain.config.redact import Redactor
from nntrain.integrations.callback import Figures, TrackerCallback
from nntrain.integrations.capture.console import CONSOLE_LOG
from nntrain.integrations.shipping.client import Offline, Shipper, shared_shipper
from nntrain.integrations.tracker import ModelFile, RunInfo, Tracker

DELIVERY_KEYS = ("finish_timeout_s", "offline")
"""The keys of the group `tracker` that do not name a tracker."""


def check_delivery(cfg: Mapping[str, Any]) -> None:
    """Checks the keys of the group `tracker` that do not name a tracker.

    Raises:
        ConfigError: if one was removed or has a wrong value, or a key is unknown.
    """
    for key in DELIVERY_KEYS:
        if key not in cfg:
            raise ConfigError(
                f"tracker.{key} was removed from the configuration: drop '~tracker.{key}'."
            )
    for key, value in cfg.items():
        if key not in DELIVERY_KEYS and not (value is None or isinstance(value, Mapping)):
            raise ConfigError(
                f"tracker.{key}={value} is not a key of the group tracker: "
                f"{nearest(key, DELIVERY_KEYS)}"
            )
    timeout_s, offline = cfg["finish_timeout_s"], cfg["offline"]
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise ConfigError(
            f"tracker.finish_timeout_s={timeout_s} must be a number of seconds, 0 or more."
        )
    if not isinstance(offline, bool):
        raise ConfigError(f"tracker.offline={offline} must be true or false.")


def make_trackers(cfg: Mapping[str, Any], trusted: Sequence[str] = ()) -> dict[str, Tracker]:
    """Makes the settings of the configured trackers, by name.

    Raises:
        ConfigError: if a node makes something else than a tracker.
    """
    nodes = {name: node for name, node in cfg.items() if isinstance(node, Mapping)}
    made = make_all(nodes, "tracker", trusted)
    for name, tracker in made.items():
        if not isinstance(tracker, Tracker):
            raise ConfigError(
                f"tracker.{name} makes {type(tracker).__name__}, which is not a tracker: "
                "name a class that derives from nntrain.integrations.tracker.Tracker."
            )
    return made


def make_shipper(
    cfg: Mapping[str, Any], made: Mapping[str, Tracker], trusted: Sequence[str]
) -> Shipper:
    """Returns the shipper of this process, which starts to import while the data is loaded."""
    if cfg["offline"]:
        return Offline()
    shipper = shared_shipper()
    shipper.finish_timeout_s = cfg["finish_timeout_s"]
    if made:
        shipper.start(made, trusted)
    return shipper


def tracking(
    cfg: Mapping[str, Any], folder: Path, info: RunInfo, redactor: Redactor, figures: Figures
) -> list[TrackerCallback]:
    """Returns the callback that records the run, or an empty list without trackers."""
    check_delivery(cfg["tracker"])
    trusted = cfg["trusted_targets"]
    made = make_trackers(cfg["tracker"], trusted)
    shipper = make_shipper(cfg["tracker"], made, trusted)
    if not made:
        return []
    best = ModelFile(folder / "best.pt", "best.pt", ("best", "latest"), cfg["model"], trusted)
    callback = TrackerCallback(
        made,
        folder,
        info,
        models=[best],
        logs=[folder / CONSOLE_LOG],
        figures=figures,
        shipper=shipper,
        trusted=trusted,
        redactor=redactor,
    )
    return [callback]
