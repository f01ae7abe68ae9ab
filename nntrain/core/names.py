"""Checks metric and file names against the rules of all trackers, and creates valid names."""

from __future__ import annotations

import hashlib
import posixpath
import re
from itertools import count

MAX_LENGTH = 250
"""Maximum characters in a metric name (MLflow's limit) and bytes in a file name."""

STEP = "train_iter"
"""The name of the step. W&B stores the step as a metric with this name."""

RUN_UID = "nntrain.run"
"""The MLflow tag, and the Optuna user attribute, that stores the uid of a run."""

_OTHER = re.compile(r"[^\w\-. :/]")
_NOT_IN_A_PATH = re.compile(r"[\x00-\x1f\x7f\\:#%?\ud800-\udfff]")


def check_metric_name(name: str, prefix: str = "") -> None:
    """Checks that every tracker accepts the key `prefix + name` for a metric.

    The rules are those of MLflow. A key may contain letters (including accented ones), digits and
    the characters `_-. :/`. The maximum length is 250 characters. Parts between slashes must not be
    empty, `.` or `..`. The key `train_iter` and keys that start with an underscore are reserved for
    W&B.

    Raises:
        ValueError: if a tracker would reject the key; the message suggests a valid name.
    """
    fault = "must be a string" if not isinstance(name, str) else _fault(prefix + name)
    if fault is not None:
        valid = suggestion(str(name), prefix)
        raise ValueError(f"Metric name {name!r} {fault}: rename it, for example to {valid!r}.")


def _fault(key: str) -> str | None:
    if (
        not key
        or _OTHER.search(key)
        or posixpath.normpath(key) != key
        or key.startswith(("/", ".."))
        or key == "."
    ):
        return (
            "must consist of letters, digits, underscores, dashes, periods, spaces and colons, "
            "in parts separated by single slashes"
        )
    if len(key) > MAX_LENGTH:
        return f"must have at most {MAX_LENGTH} characters, including its prefix"
    if key == STEP:
        return "is reserved for the step"
    return "must not start with an underscore, which W&B reserves" if key.startswith("_") else None


def suggestion(name: str, prefix: str = "") -> str:
    """Returns a valid name similar to an invalid one: `mem/peak_gib` for `mem/peak(GiB)`."""
    parts = [
        re.sub(r"(?:[^\w\-.:/]|_)+", "_", part).strip("_. ") for part in name.lower().split("/")
    ]
    fitting = "/".join(filter(None, parts)) or "metric"
    return Keys()[_shortened(prefix + fitting)].removeprefix(prefix)


def metric_key(name: str) -> str:
    """Returns a valid key for any name.

    Invalid characters are replaced with `_`, and repeated slashes with a single slash. A name that
    is too long is cut, and a hash is appended.
    """
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
    """Maps metric names to unique valid keys: `keys[name]`.

    The key is `metric_key(name)`. If another name or the step already uses this key, `_2`, `_3` and
    so on is appended.
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
    """Checks that every tracker accepts the name of a file: a relative path with forward slashes.

    Args:
        name: the name.
        kind: the kind of file, for the error message, such as "Figure".

    Raises:
        ValueError: if a tracker would reject the name; the message suggests a valid name.
    """
    if not isinstance(name, str) or _file_fault(name):
        raise ValueError(
            f"{kind} name {name!r} must be a relative path of at most {MAX_LENGTH} bytes, without "
            "'..', backslashes, control characters or any of ':#%?': "
            f"rename it, for example to {_file_suggestion(str(name))!r}."
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
