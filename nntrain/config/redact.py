"""Keeping secrets out of what is recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "***"

_SECRET_KEY = re.compile(
    r"(^|[_.-])(api_?key|access_?key|private_?key|secret|password|passwd|token|credentials?)s?$", re.IGNORECASE
)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is secret: `api_key`, `db.password`; not `use_cls_token_count`."""
    return _SECRET_KEY.search(key) is not None


def redact(value: Any, key: str = "") -> Any:
    """The same value with what is secret in it replaced by `***`: values under secret keys, logins inside URLs."""
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, key) for item in value]
    if value is not None and is_secret(key):
        return REDACTED
    return _URL_LOGIN.sub(f"{REDACTED}@", value) if isinstance(value, str) else value


def redact_override(override: str) -> str:
    """A command-line override with its value replaced by `***` if it is secret."""
    key, sign, value = override.partition("=")
    return f"{key}{sign}{redact(value, key.lstrip('+'))}"
