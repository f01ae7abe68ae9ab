"""Creates the trackers, the shipper and the tracker callback from a configuration."""

from __future__ import annotations

import os
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
from nntrain.integrations.capture.provenance import GitTags
from nntrain.integrations.shipping.client import (
    INTERRUPTED_TIMEOUT_S,
    Offline,
    Shipper,
    shared_shipper,
)
from nntrain.integrations.tracker import ModelFile, RunInfo, Tracker

INTERRUPT_KEY = "interrupt_timeout_s"

DELIVERY_KEYS = ("finish_timeout_s", INTERRUPT_KEY, "offline")
"""The delivery settings in the `tracker` group. All other keys in this group are trackers."""


def check_delivery(cfg: Mapping[str, Any]) -> None:
    """Checks the delivery settings in the `tracker` group.

    Raises:
        ConfigError: if a key is missing, unknown or has an invalid value.
    """
    for key in DELIVERY_KEYS:
        if key not in cfg and key != INTERRUPT_KEY:  # configurations of version 0.1 lack it
            raise ConfigError(
                f"tracker.{key} was removed from the configuration: "
                f"drop the override '~tracker.{key}'."
            )
    for key, value in cfg.items():
        if key not in DELIVERY_KEYS and not (value is None or isinstance(value, Mapping)):
            raise ConfigError(f"Unknown key tracker.{key}={value}: {nearest(key, DELIVERY_KEYS)}")
    _check_seconds("finish_timeout_s", cfg["finish_timeout_s"])
    _check_seconds(INTERRUPT_KEY, interrupt_timeout_s(cfg))
    if not isinstance(offline := cfg["offline"], bool):
        raise ConfigError(f"tracker.offline={offline} must be true or false.")


def _check_seconds(key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ConfigError(f"tracker.{key}={value} must be a number of seconds, 0 or greater.")


def interrupt_timeout_s(cfg: Mapping[str, Any]) -> float:
    """Returns the seconds that delivery may take after a signal, from the `tracker` group."""
    seconds: float = cfg.get(INTERRUPT_KEY, INTERRUPTED_TIMEOUT_S)
    return seconds


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
    shipper.interrupt_timeout_s = interrupt_timeout_s(cfg)
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
        late_tags=GitTags(Path.cwd()),
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
    if figures and "MPLBACKEND" in os.environ:
        _check_backend()
    return figures


def _check_backend() -> None:
    """Checks the user's setting before training, because figures are drawn after it."""
    try:
        import matplotlib  # noqa: F401 - only its check of MPLBACKEND is needed
    except ValueError as err:
        raise ConfigError(f"MPLBACKEND={os.environ['MPLBACKEND']} is not valid: {err}.") from err
