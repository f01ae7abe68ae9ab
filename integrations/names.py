"""The names under which things are recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_REFUSED = re.compile(r"[^\w\-. :/]")


def metric_key(name: str) -> str:
    """A metric key that every tracker takes: characters that MLflow refuses become `_`, doubled slashes one."""
    return re.sub(r"/+", "/", _REFUSED.sub("_", name)).strip("/")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with dotted keys; lists stay values, empty mappings are left out."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, name)
        else:
            flat[name] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return flat
