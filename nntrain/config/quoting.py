"""Quotes what nntrain prints, so that a command can be pasted into a shell."""

from __future__ import annotations

import re
import shlex

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+-]*/[A-Za-z0-9_./:@+-]*")


def shell_override(key: str, value: str) -> str:
    """Returns `key=value`, quoted for Hydra and for the shell.

    Args:
        key: the key of the configuration.
        value: a text, such as a path. Hydra would read some texts without quotes as lists, numbers,
            sweeps or interpolations.
    """
    return shlex.quote(f"{key}={value if _PLAIN.fullmatch(value) else _quoted(value)}")


def _quoted(value: str) -> str:
    text = value.replace("${", r"\${")
    # Hydra reads a backslash literally, except before a quote.
    text = re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + found[2].replace('"', r"\""), text)
    return f'"{text}"'
