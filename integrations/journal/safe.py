"""Removes secrets from records before they are written to a journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nntrain.config.redact import Redactor, known
from nntrain.integrations.journal.records import Record

_NAMES = ("kind", "path", "name", "by")
"""Keys of records whose value names a metric or a file, which must be found again."""


def safe(record: Record) -> Record:
    """Returns a record without the secrets that this process knows.

    The names of metrics, tables and files stay as they are. A record of metrics contains only names
    and numbers, so it costs nothing.
    """
    match record["kind"]:
        case "metrics":
            return record
        case "table":
            return {**record, **_table(record, known())}
        case "start":
            return _texts({**record, "run": _run(record["run"], known())}, known())
    return _texts(record, known())


def _texts(record: Record, redactor: Redactor) -> dict[str, Any]:
    return {
        key: value if key in _NAMES else redactor.value(value, key) for key, value in record.items()
    }


def _run(run: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Returns the information about a run; `name` is a text here."""
    return {key: redactor.value(value, key) for key, value in run.items()}


def _table(record: Record, redactor: Redactor) -> dict[str, Any]:
    """Returns the texts of a table; the columns of secret keys, such as `api_key`, are hidden.

    A column `token` contains parts of texts, as a table of a language model does.
    """
    keys = ["" if name.lower() in ("token", "tokens") else name for name in record["columns"]]
    rows = [
        [redactor.value(cell, key) for key, cell in zip(keys, row, strict=True)]
        for row in record["rows"]
    ]
    return {"columns": [redactor.text(name) for name in record["columns"]], "rows": rows}
