"""The names under which things are recorded: which ones every tracker takes, and how others are made to fit."""

from __future__ import annotations

import hashlib
import posixpath
import re
from itertools import count

MAX_LENGTH = 250
"""Characters of a metric's name, which is MLflow's limit, and bytes of a file's, which is near that of most disks."""

STEP = "train_iter"
"""The step of every row; W&B keeps it beside the metrics, under this name."""

_OTHER = re.compile(r"[^\w\-. :/]")
_NOT_IN_A_PATH = re.compile(r"[\x00-\x1f\x7f\\:#%?\ud800-\udfff]")


def check_metric_name(name: str, prefix: str = "") -> None:
    """Checks that every tracker takes `prefix` and `name` as a metric's key; but for the last rules below they are MLflow's.

    A key is of letters (also accented ones), digits and the characters `_-. :/`, is no path that leads elsewhere, and has
    at most 250 characters. `train_iter` and what begins with an underscore is W&B's.

    Raises:
        ValueError: if one would not; the message suggests a name that all take.
    """
    fault = "must be a string" if not isinstance(name, str) else _fault(prefix + name)
    if fault is not None:
        raise ValueError(
            f"Metric name {name!r} {fault}: rename it, for example to {suggestion(str(name), prefix)!r}."
        )


def _fault(key: str) -> str | None:
    if (
        not key
        or _OTHER.search(key)
        or posixpath.normpath(key) != key
        or key.startswith(("/", ".."))
        or key == "."
    ):
        return "must be of letters, digits, underscores, dashes, periods, spaces, colons and single slashes between them"
    if len(key) > MAX_LENGTH:
        return f"must have no more than {MAX_LENGTH} characters with what stands before it"
    if key == STEP:
        return "must be another one, since this is the step's"
    return (
        "must not begin with an underscore, as W&B's own names do" if key.startswith("_") else None
    )


def suggestion(name: str, prefix: str = "") -> str:
    """A name that `check_metric_name` takes in place of one that it does not: for `mem/peak(GiB)`, `mem/peak_gib`."""
    parts = [
        re.sub(r"(?:[^\w\-.:/]|_)+", "_", part).strip("_. ") for part in name.lower().split("/")
    ]
    fitting = "/".join(filter(None, parts)) or "metric"
    return Keys()[_shortened(prefix + fitting)].removeprefix(prefix)


def metric_key(name: str) -> str:
    """The key for a name: what trackers refuse becomes `_`, doubled slashes one; one that is too long ends in its hash."""
    parts = [part for part in _OTHER.sub("_", name).split("/") if part]
    parts = ["_" * len(part) if part in (".", "..") else part for part in parts]
    key = "/".join(parts) or "_"
    return _shortened(re.sub(r"^\.\.", "__", key), name)


def _shortened(key: str, name: str | None = None) -> str:
    if len(key) <= MAX_LENGTH:
        return key
    digest = hashlib.sha256((name or key).encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{key[: MAX_LENGTH - 9]}_{digest}"


class Keys:
    """A metric's key for each name, never the same one for two: `keys[name]`.

    It is `metric_key` of the name or, where another name came first, that with `_2`, `_3` and so on. `train_iter` is taken
    from the beginning.
    """

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._taken = {STEP}

    def __getitem__(self, name: str) -> str:
        if name not in self._keys:
            self._keys[name] = self._new(metric_key(name))
        return self._keys[name]

    def _new(self, key: str) -> str:
        candidates = (key if n == 1 else _shortened(f"{key}_{n}") for n in count(1))
        free = next(candidate for candidate in candidates if candidate not in self._taken)
        self._taken.add(free)
        return free


def check_file_name(name: str, kind: str) -> None:
    """Checks that every tracker keeps a file under that name, a relative path with `/`; `kind` is what the message calls it.

    Raises:
        ValueError: if one would not; the message suggests a name that all take.
    """
    if not isinstance(name, str) or _file_fault(name):
        raise ValueError(
            f"{kind} name {name!r} must be a relative path of at most {MAX_LENGTH} bytes, without '..', backslashes, control "
            f"characters or any of ':#%?': rename it, for example to {_file_suggestion(str(name))!r}."
        )


def _file_fault(name: str) -> bool:
    if not name or _NOT_IN_A_PATH.search(name) or len(name.encode()) > MAX_LENGTH:
        return True
    return posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == "."


def _file_suggestion(name: str) -> str:
    parts = _NOT_IN_A_PATH.sub("_", name.replace("\\", "/")).split("/")
    kept = "/".join(part for part in parts if part.strip(".")).lstrip(".")
    stem, suffix = posixpath.splitext(kept)
    room = MAX_LENGTH - len(suffix.encode())
    return (stem.encode()[:room].decode(errors="ignore") + suffix) if kept else "file"
