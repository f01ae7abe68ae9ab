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
"""The keys of the group `tracker` that are no trackers."""


def check_delivery(cfg: Mapping[str, Any]) -> None:
    """Checks the keys that stand beside the trackers, before anything is trained."""
    for key in DELIVERY_KEYS:
        if key not in cfg:
            raise ConfigError(
                f"tracker.{key} is gone from the configuration: leave out '~tracker.{key}'."
            )
    for key, value in cfg.items():
        if key not in DELIVERY_KEYS and not (value is None or isinstance(value, Mapping)):
            raise ConfigError(
                f"tracker.{key}={value} is no key of the trackers': {nearest(key, DELIVERY_KEYS)}"
            )
    timeout_s, offline = cfg["finish_timeout_s"], cfg["offline"]
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise ConfigError(
            f"tracker.finish_timeout_s={timeout_s} is no time to wait: give seconds, 0 or more."
        )
    if not isinstance(offline, bool):
        raise ConfigError(f"tracker.offline={offline} is neither true nor false: give one of them.")


def make_trackers(cfg: Mapping[str, Any], trusted: Sequence[str] = ()) -> dict[str, Tracker]:
    """The trackers of the configuration, by name: their settings only, for it is the shipper that uses them."""
    nodes = {name: node for name, node in cfg.items() if isinstance(node, Mapping)}
    made = make_all(nodes, "tracker", trusted)
    for name, tracker in made.items():
        if not isinstance(tracker, Tracker):
            raise ConfigError(
                f"tracker.{name} makes {type(tracker).__name__}, which is no nntrain.integrations.tracker.Tracker."
            )
    return made


def make_shipper(
    cfg: Mapping[str, Any], made: Mapping[str, Tracker], trusted: Sequence[str]
) -> Shipper:
    """What delivers: the process's own shipper, started at once so that it imports while data is loaded."""
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
    """The callback that records the run; none if there is no tracker."""
    check_delivery(cfg["tracker"])
    trusted = cfg["trusted_targets"]
    made = make_trackers(cfg["tracker"], trusted)
    shipper = make_shipper(cfg["tracker"], made, trusted)
    best = ModelFile(folder / "best.pt", "best.pt", ("best", "latest"), cfg["model"], trusted)
    options = {
        "shipper": shipper,
        "trusted": trusted,
        "redactor": redactor,
        "figures": figures,
        "models": [best],
    }
    return (
        [TrackerCallback(made, folder, info, logs=[folder / CONSOLE_LOG], **options)]
        if made
        else []
    )
