"""Removes from records what no tracker can store: names and texts that cannot be encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from nntrain.core.names import check_file_name
from nntrain.integrations.journal.records import Record
from nntrain.integrations.tracker import RunInfo

_NAMED: Mapping[str, str] = {"metrics": "values", "histograms": "counts", "tags": "tags"}
"""The key of the object, by kind of record, whose keys are names."""


def fitting_record(record: Record) -> tuple[Record | None, list[str]]:
    """Returns the part of a record that can be encoded, and a note for each name that cannot.

    The result is `None` if the record's own name cannot be encoded.
    """
    kind = record["kind"]
    if kind in _NAMED:
        named = record[_NAMED[kind]]
        fits = _is_encodable if kind == "tags" else _is_series_name
        bad = [name for name in named if not fits(name)]
        if bad:
            kept = {name: value for name, value in named.items() if name not in bad}
            record = {**record, _NAMED[kind]: kept}
        notes = [_note(kind, name) for name in bad]
        return (record if kind == "metrics" else encodable(record)), notes
    name = record.get("name")
    if isinstance(name, str) and not _is_encodable(name):
        return None, [_note(kind, name)]
    return (record if kind in ("start", "model") else encodable(record)), []


def fitting_run(run: RunInfo) -> tuple[RunInfo, list[str]]:
    """Returns a run without names that cannot be stored, and a note for each of them."""
    notes = [
        _note(kind, name)
        for kind, names in (("param", run.params), ("tag", run.tags))
        for name in names
        if not _is_encodable(name)
    ]
    bad_files = [name for name in run.texts if not _is_file_name(name) or _is_folder(name, run)]
    fitting = replace(
        run,
        name=encodable(run.name),
        params=_with_encodable_names(run.params),
        tags=_with_encodable_names(run.tags),
        texts={name: encodable(run.texts[name]) for name in run.texts if name not in bad_files},
        process=replace(
            run.process,
            **{
                name: encodable(getattr(run.process, name))
                for name in ("host", "cwd", "program", "args", "executable")
            },
        ),
        group=encodable(run.group),
    )
    return fitting, [*notes, *(_note("text", name) for name in bad_files)]


def encodable(value: Any) -> Any:
    """Returns a value in which characters that cannot be encoded are escaped."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(item) for item in value]
    return value


def _with_encodable_names(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encodable(value) for name, value in values.items() if _is_encodable(name)}


@lru_cache(4096)
def _is_encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def _is_series_name(name: str) -> bool:
    return _is_encodable(name) and not name.endswith("\\")  # it stops W&B's service process


def _is_folder(name: str, run: RunInfo) -> bool:
    """Returns whether a text has the name of the folder of another text."""
    return any(other.startswith(f"{name}/") for other in run.texts)


def _is_file_name(name: str) -> bool:
    try:
        check_file_name(name, "Text")
    except ValueError:
        return False
    return True


def _note(kind: str, name: str) -> str:
    return f"{kind} {ascii(name)[:100]}: its name cannot be stored"
