"""Converts a nested configuration to a flat dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def flatten(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a flat dict with dotted keys. Lists are not flattened; empty mappings are dropped."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, name)
        else:
            flat[name] = (
                list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            )
    return flat
