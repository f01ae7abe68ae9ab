"""Functions that create journals for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nntrain.integrations.journal.records import JOURNAL, Record, encode, metrics_record

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080000000"
    "03a7e9b550000000a49444154789c63600000000200"
    "0148afa4710000000049454e44ae426082"
)
"""A PNG image with one black pixel."""


def file_with(path: Path, content: bytes) -> Path:
    """Writes a file and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def records_of(first: int, folder: Path) -> list[Record]:
    """Returns four metric rows, starting at step `first`, and one record of each other kind."""
    file_with(folder / "files/a.png", PNG)
    file_with(folder / "files/a.bin", b"content")
    steps, last = list(range(first, first + 4)), first + 3
    at: Record = {"time_ms": 2_000, "step": last, "name": f"at-{last}"}
    file: Record = {**at, "path": "files/a.bin", "aliases": [], "node": None, "trusted_targets": []}
    counts = {"edges": [0.0, 0.5, 1.0], "counts": {"act/head": [3.0, 4.0]}}
    loss = {"train/loss": [step / 2 for step in steps]}
    return [
        metrics_record([1_000 + step for step in steps], steps, loss),
        {**at, "kind": "tags", "tags": {"at": str(last)}},
        {**at, "kind": "histograms", **counts},
        {**at, "kind": "figure", "path": "files/a.png"},
        {**at, "kind": "table", "columns": ["a"], "rows": [[last]]},
        {**file, "kind": "artifact"},
        {**file, "kind": "model"},
    ]


def append(folder: Path, records: Iterable[Record]) -> Path:
    """Appends records to the journal in a folder; returns the path of the journal."""
    with open(folder / JOURNAL, "ab") as file:
        file.writelines(encode(record) for record in records)
    return folder / JOURNAL
