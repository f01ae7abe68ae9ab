"""A nested configuration as one level of dotted keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def flatten(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with dotted keys; lists stay values, empty mappings are left out."""
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
