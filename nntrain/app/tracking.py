"""Creates the trackers, the shipper and the tracker callback from a configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
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
"""The delivery settings in the `tracker` group. All other keys in this group are trackers."""


def check_delivery(cfg: Mapping[str, Any]) -> None:
    """Checks the delivery settings in the `tracker` group.

    Raises:
        ConfigError: if a key is missing, unknown or has an invalid value.
    """
    for key in DELIVERY_KEYS:
        if key not in cfg:
            raise ConfigError(
                f"tracker.{key} was removed from the configuration: "
                f"drop the override '~tracker.{key}'."
            )
    for key, value in cfg.items():
        if key not in DELIVERY_KEYS and not (value is None or isinstance(value, Mapping)):
            raise ConfigError(f"Unknown key tracker.{key}={value}: {nearest(key, DELIVERY_KEYS)}")
    timeout_s, offline = cfg["finish_timeout_s"], cfg["offline"]
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise ConfigError(
            f"tracker.finish_timeout_s={timeout_s} must be a number of seconds, 0 or greater."
        )
    if not isinstance(offline, bool):
        raise ConfigError(f"tracker.offline={offline} must be true or false.")


def make_trackers(cfg: Mapping[str, Any], trusted: Sequence[str] = ()) -> dict[str, Tracker]:
    """Creates the trackers in a configuration, keyed by name.

    Raises:
        ConfigError: if the target of a node does not return a `Tracker`.
    """
    nodes = {name: node for name, node in cfg.items() if isinstance(node, Mapping)}
    made = make_all(nodes, "tracker", trusted)
    for name, tracker in made.items():
        if not isinstance(tracker, Tracker):
            raise ConfigError(
                f"tracker.{name} must be an nntrain.integrations.tracker.Tracker "
                f"but is {type(tracker).__name__}."
            )
    return made


def make_shipper(
    cfg: Mapping[str, Any], made: Mapping[str, Tracker], trusted: Sequence[str]
) -> Shipper:
    """Starts and returns the shipper of this process.

    The shipper imports the tracker libraries in the background while the data is loading.
    """
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
    """Returns a list with the tracker callback, or an empty list if there are no trackers."""
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
        figures=_drawable(figures),
        shipper=shipper,
        trusted=trusted,
        redactor=redactor,
    )
    return [callback]


def _drawable(figures: Figures) -> Figures:
    """Returns the figures; if matplotlib is missing, prints a warning and returns an empty dict."""
    if figures and find_spec("matplotlib") is None:
        print(
            "nntrain: figures are not recorded because matplotlib is not installed: "
            "pip install 'nntrain[plots]'",
            file=sys.stderr,
        )
        return {}
    return figures
