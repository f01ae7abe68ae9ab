"""Helpers for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection

N_NAMES = 20
"""Maximum number of names in a hint."""


def nearest(name: str, names: Collection[str]) -> str:
    """Returns a hint for an unknown name: the closest match, or a list of all known names."""
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    known = sorted(names)
    more = f", and {len(known) - N_NAMES} more" if len(known) > N_NAMES else ""
    return f"expected one of {', '.join(known[:N_NAMES]) or 'nothing'}{more}."


def first_line(err: BaseException) -> str:
    """Returns the first line of an error message, or the class name if the message is empty."""
    lines = str(err).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(err).__name__
