"""Checks the content of journal records, because a journal may come from somebody else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nntrain.result import StopReason

Check = Callable[[Any], bool]
"""Returns whether a value has the expected form."""

DEPTH = 100
"""Maximum number of objects and lists inside each other in a record."""

_INT64 = range(-(2**63), 2**63)
_LARGEST = 10**308
_UID = re.compile(r"[\w\-]{0,128}")
_REASONS = frozenset(map(str, StopReason))


def _integer(value: Any) -> bool:
    return type(value) is int and value in _INT64


def _int32(value: Any) -> bool:
    return type(value) is int and -(2**31) <= value < 2**31


def _signum(value: Any) -> bool:
    return type(value) is int and 0 <= value < 128


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _any(_: Any) -> bool:
    return True


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _integers(value: Any) -> bool:
    """Returns whether a value is a list of 64-bit integers; faster than `_list_of(_integer)`."""
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        return False
    return not value or (min(value) in _INT64 and max(value) in _INT64)


def _numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    types = set(map(type, value))
    return types <= {float} or (
        types <= {int, float}
        and all(-_LARGEST < one < _LARGEST for one in value if type(one) is int)
    )


def is_uid(value: Any) -> bool:
    """Returns whether a value can be the id of a run."""
    return bool(value) and _uid(value)


def _uid(value: Any) -> bool:
    return isinstance(value, str) and _UID.fullmatch(value) is not None


_PROCESS: Mapping[str, tuple[Check, str]] = {
    "pid": (_int32, "a 32-bit integer"),
    "host": (_text, "a text"),
    "cwd": (_text, "a text"),
    "program": (_text, "a text"),
    "args": (_list_of(_text), "a list of texts"),
    "executable": (_text, "a text"),
}

_RUN: Mapping[str, tuple[Check, str]] = {
    "uid": (_uid, "an id of letters, digits and dashes"),
    "name": (_optional(_text), "a text or null"),
    "params": (_dict_of(_any), "an object"),
    "tags": (_dict_of(_text), "an object of texts"),
    "texts": (_dict_of(_text), "an object of texts"),
    "process": (_dict_of(_any), "an object"),
    "time_ms": (_integer, "a 64-bit integer"),
    "parent": (_uid, "an id of letters, digits and dashes"),
    "group": (_text, "a text"),
}

_FILE: Mapping[str, tuple[Check, str]] = {
    "path": (_text, "a text"),
    "name": (_text, "a text"),
    "aliases": (_list_of(_text), "a list of texts"),
}

_STEP: Mapping[str, tuple[Check, str]] = {"step": (_integer, "a 64-bit integer")}

_KINDS: Mapping[str, Mapping[str, tuple[Check, str]]] = {
    "start": {
        "run": (_dict_of(_any), "an object"),
        "trackers": (_dict_of(lambda spec: isinstance(spec, dict)), "an object of objects"),
    },
    "metrics": {
        "time_ms": (_integers, "a list of 64-bit integers"),
        "step": (_integers, "a list of 64-bit integers"),
        "values": (_dict_of(_numbers), "an object of lists of numbers"),
    },
    "histograms": {
        "time_ms": (_integer, "a 64-bit integer"),
        **_STEP,
        "edges": (_numbers, "a list of numbers"),
        "counts": (_dict_of(_numbers), "an object of lists of numbers"),
    },
    "tags": {"tags": (_dict_of(_text), "an object of texts")},
    "figure": {"path": (_text, "a text"), "name": (_text, "a text"), **_STEP},
    "table": {
        "name": (_text, "a text"),
        "columns": (_list_of(_text), "a list of texts"),
        "rows": (_list_of(_list), "a list of lists"),
        **_STEP,
    },
    "artifact": _FILE,
    "model": {
        **_FILE,
        "node": (_optional(_dict_of(_any)), "an object or null"),
        "trusted_targets": (_list_of(_text), "a list of texts"),
    },
    "end": {
        "reason": (_REASONS.__contains__, f"one of {', '.join(sorted(_REASONS))}"),
        "message": (_text, "a text"),
        "signum": (_optional(_signum), "the number of a signal or null"),
        "time_ms": (_integer, "a 64-bit integer"),
    },
    "continued": {"by": (_text, "a text")},
}


def check_record(record: Any, version: int) -> None:
    """Checks the keys and types of a record. Records of an unknown kind are not checked.

    Args:
        record: the record.
        version: the newest version of the format that this nntrain reads.

    Raises:
        ValueError: if the record is not one that nntrain writes.
    """
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise ValueError("the record has no kind")
    kind = record["kind"]
    if kind != "metrics" and not _is_flat(record):
        raise ValueError("it is nested too deeply")
    if kind == "start" and not _is_readable(record, version):
        return
    _check(record, _KINDS.get(kind, {}), kind)
    match kind:
        case "start":
            _check({**_DEFAULTS, **record["run"]}, _RUN, "start.run")
            process = {**_NO_PROCESS, **record["run"].get("process", {})}
            _check(process, _PROCESS, "start.run.process")
        case "metrics":
            _check_lengths(len(record["step"]), [record["time_ms"], *record["values"].values()])
        case "histograms":
            _check_lengths(max(len(record["edges"]) - 1, 0), record["counts"].values())
        case "table":
            _check_lengths(len(record["columns"]), record["rows"])


_NO_PROCESS: Mapping[str, Any] = {
    "pid": 0,
    "host": "",
    "cwd": "",
    "program": "",
    "args": [],
    "executable": "",
}
_DEFAULTS: Mapping[str, Any] = {
    "uid": "",
    "name": None,
    "params": {},
    "tags": {},
    "texts": {},
    "process": {},
    "time_ms": 0,
    "parent": "",
    "group": "",
}


def _is_flat(record: Any) -> bool:
    """Returns whether a value is nested at most `DEPTH` levels deep."""
    level = [record]
    for _ in range(DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
            elif isinstance(one, list):
                below += one
        level = [one for one in below if isinstance(one, dict | list)]
        if not level:
            return True
    return False


def _is_readable(record: Mapping[str, Any], version: int) -> bool:
    """Returns whether this nntrain can read the version of a start record.

    Raises:
        ValueError: if the version is not an integer.
    """
    found = record.get("version")
    if type(found) is not int or found < 1:
        raise ValueError(f"start.version={_shown(found)} must be a positive integer")
    return found <= version


def _check(values: Mapping[str, Any], expected: Mapping[str, tuple[Check, str]], at: str) -> None:
    for key, (check, form) in expected.items():
        if key not in values:
            raise ValueError(f"{at}.{key} is missing")
        if not check(values[key]):
            raise ValueError(f"{at}.{key}={_shown(values[key])} must be {form}")


def _check_lengths(n: int, columns: Any) -> None:
    if any(len(column) != n for column in columns):
        raise ValueError("the columns of the record have different lengths")


def _shown(value: Any) -> str:
    """Returns a short, printable form of a value."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer with too many digits, a deeply nested value
        return f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}..."
