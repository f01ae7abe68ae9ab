"""Records that nntrain does not write, as they may be in the journal of somebody else."""

from collections.abc import Iterator
from typing import Any

from tests.common.journals import END, START, batches


def run_with(**changes: Any) -> dict[str, Any]:
    return {**START, "run": {**START["run"], **changes}}


VALUES: list[Any] = [
    *(None, True, 0, -1, 2**70, 10**400, 1.5, float("nan"), float("inf")),
    *("", "x", "\ud800", "\0", "../x", "9" * 5000),
    *([], [1], [None], ["x"], [[]], [float("nan")], [10**400]),
    *({}, {"a": 1}, {"a": "b"}, {"a": [1.0]}, {"a": None}, {"": ""}, {"\ud800": "x"}, {"a": ["x"]}),
]

RECORDS: list[dict[str, Any]] = [
    {"kind": "metrics", "time_ms": [1], "step": [1], "values": {"a": [1.0]}},
    {"kind": "histograms", "time_ms": 1, "step": 1, "edges": [0, 1], "counts": {"h": [1]}},
    {"kind": "tags", "tags": {"a": "b"}},
    {"kind": "figure", "path": "x", "name": "g.png", "step": 1},
    {"kind": "table", "name": "t", "columns": ["a"], "rows": [[1]], "step": 1},
    {"kind": "artifact", "path": "x", "name": "g", "aliases": []},
    {
        "kind": "model",
        "path": "x",
        "name": "m",
        "aliases": [],
        "node": None,
        "trusted_targets": [],
    },
]


def with_odd_values(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields copies of a record in which a key is missing or has an odd value."""
    for key in record:
        yield {name: value for name, value in record.items() if name != key}
        yield from ({**record, key: value} for value in VALUES)


UNUSUAL: dict[str, tuple[list[dict[str, Any]], int]] = {
    "no rows": ([{"kind": "metrics", "time_ms": [], "step": [], "values": {"z": []}}], 0),
    "no values": ([{"kind": "metrics", "time_ms": [1], "step": [1], "values": {}}], 0),
    "negative step": (
        [{"kind": "metrics", "time_ms": [1], "step": [-5], "values": {"z": [1.0]}}],
        0,
    ),
    "the year 99999": (
        [{"kind": "metrics", "time_ms": [3093527980800000], "step": [1], "values": {"z": [1.0]}}],
        0,
    ),
    "a kind of a later version": ([{"kind": "hologram", "a": 1}], 0),
    "a path that is too long": (
        [{"kind": "figure", "path": "x" * 5000, "name": "a", "step": 1}],
        1,
    ),
    "a name that stops W&B": (
        [{"kind": "metrics", "time_ms": [1], "step": [1], "values": {"a\\": [1.0]}}],
        1,
    ),
    "an integer with 401 digits": ([run_with(params={"a": 10**400})], 0),
    "a text in the folder of another text": ([run_with(texts={"a": "x", "a/b": "y"})], 1),
    "a long name of 4-byte characters": ([run_with(name="\U00020000" * 80)], 0),
    "records after the end": ([END, *map(dict, batches(20, 24))], 0),
}
