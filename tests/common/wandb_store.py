"""Reads the `.wandb` file of an offline W&B run.

The file has LevelDB's log format with an additional header of 7 bytes. It consists of blocks of 32
KiB; the header is part of the first block. Each fragment of a record starts with 7 bytes: CRC-32C,
length and kind.
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
    """The content of an offline run; the dictionaries have the latest value of each key."""

    folder: Path
    run: pb.RunRecord = field(default_factory=pb.RunRecord)
    environment: pb.EnvironmentRecord = field(default_factory=pb.EnvironmentRecord)
    history: list[dict[str, Any]] = field(default_factory=list)
    """The rows; names of nested values are joined by dots."""
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, pb.MetricRecord] = field(default_factory=dict)
    """The metrics that were defined with `define_metric`, by name or pattern."""
    files: list[str] = field(default_factory=list)
    artifacts: list[pb.ArtifactRecord] = field(default_factory=list)
    console: str = ""
    stats: list[dict[str, float]] = field(default_factory=list)
    """The samples of CPU and memory usage."""
    exit_code: int | None = None

    def series(self, key: str) -> list[tuple[int, float]]:
        """Returns the steps and values of one metric."""
        return [(row["train_iter"], row[key]) for row in self.history if key in row]

    @property
    def params(self) -> dict[str, Any]:
        """The flattened config, without the tags and the keys that W&B adds."""
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
        """The tags that have values, which W&B stores in the config under `nntrain`."""
        return dict(self.config.get("nntrain", {}))


def read_offline(folder: Path, uid: str) -> WandbRun:
    """Returns the offline run with the id `uid` below `folder/wandb`."""
    (file,) = (folder / "wandb").glob(f"offline-run-*/run-{uid}.wandb")
    found = WandbRun(file.parent)
    for record in records(file):
        _take(found, record)
    return found


def records(path: Path) -> Iterator[pb.Record]:
    """Yields the complete records of a file."""
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
