"""The names under which things are recorded."""

from __future__ import annotations

import re

_REFUSED = re.compile(r"[^\w\-. :/]")


def metric_key(name: str) -> str:
    """A metric key that every tracker takes: characters that MLflow refuses become `_`, doubled slashes one."""
    return re.sub(r"/+", "/", _REFUSED.sub("_", name)).strip("/")
