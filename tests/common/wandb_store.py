"""Reads back what W&B keeps of an offline run: the records of its `.wandb` file.

The file is LevelDB's log format with a header of its own: after 7 bytes come blocks of 32 KiB, in which each fragment of a
record has a header of 7 bytes (CRC-32C, length, kind); the header counts as part of the first block.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

HEADER = b":W&B"
BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """What an offline run holds; of what is updated, the newest."""

    folder: Path
    run: pb.RunRecord = field(default_factory=pb.RunRecord)
    environment: pb.EnvironmentRecord = field(default_factory=pb.EnvironmentRecord)
    history: list[dict[str, Any]] = field(default_factory=list)
    """The rows, with the names of nested values joined by dots."""
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, pb.MetricRecord] = field(default_factory=dict)
    """What was defined by `define_metric`, by name or pattern."""
    files: list[str] = field(default_factory=list)
    artifacts: list[pb.ArtifactRecord] = field(default_factory=list)
    console: str = ""
    stats: list[dict[str, float]] = field(default_factory=list)
    """The samples of the use of processor and memory."""
    exit_code: int | None = None

    def series(self, key: str) -> list[tuple[int, float]]:
        """The steps and values of one metric."""
        return [(row["train_iter"], row[key]) for row in self.history if key in row]

    @property
    def params(self) -> dict[str, Any]:
        """The config flattened as W&B's page shows it, without W&B's own and the tags."""
        return dict(
            _flat(
                {
                    key: value
                    for key, value in self.config.items()
                    if key not in ("_wandb", "nntrain")
                }
            )
        )

    @property
    def tags(self) -> dict[str, str]:
        """The tags with values."""
        return dict(self.config.get("nntrain", {}))


def read_offline(folder: Path, uid: str) -> WandbRun:
    """The one offline run of that id below `folder/wandb`."""
    (file,) = (folder / "wandb").glob(f"offline-run-*/run-{uid}.wandb")
    found = WandbRun(file.parent)
    for record in records(file):
        _take(found, record)
    return found


def records(path: Path) -> Iterator[pb.Record]:
    """The records that are whole."""
    data, fragments = path.read_bytes(), b""
    assert data.startswith(HEADER)
    for kind, fragment in _fragments(data):
        fragments = fragment if kind in (FULL, FIRST) else fragments + fragment
        if kind in (FULL, LAST):
            yield pb.Record.FromString(fragments)


def _fragments(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 7
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if kind not in (FULL, FIRST, MIDDLE, LAST) or at + 7 + length > len(data):
            return
        yield kind, data[at + 7 : at + 7 + length]
        at += 7 + length


def _take(found: WandbRun, record: pb.Record) -> None:
    match record.WhichOneof("record_type"):
        case "run":
            found.run = record.run
            found.config |= _items(record.run.config.update)
        case "config":
            found.config |= _items(record.config.update)
        case "environment":
            found.environment.MergeFrom(record.environment)
        case "history":
            found.history.append(_items(record.history.item))
        case "summary":
            found.summary |= _items(record.summary.update)
        case "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric
        case "files":
            found.files += [item.path for item in record.files.files]
        case "artifact":
            found.artifacts.append(record.artifact)
        case "output_logger":
            found.console += record.output_logger.line
        case "stats":
            found.stats.append(
                {item.key: json.loads(item.value_json) for item in record.stats.item}
            )
        case "exit":
            found.exit_code = record.exit.exit_code


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
