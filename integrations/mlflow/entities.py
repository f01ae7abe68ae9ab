"""Converts values to MLflow entities, and groups the entities into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.validation import MAX_BATCH_LOG_REQUEST_SIZE, MAX_TAG_VAL_LENGTH

from nntrain.core.names import metric_key
from nntrain.integrations.tracker import MetricRow, Refused

_Entity = TypeVar("_Entity", Metric, Param, RunTag)


def metric(key: str, value: float, row: MetricRow) -> Metric:
    """Returns a value of a row as an MLflow metric.

    Raises:
        Refused: if the step, the time or the value is out of range.
    """
    if not (-(2**63) <= row.step < 2**63 and 0 <= row.time_ms < 2**63):
        raise Refused(
            f"step {row.step} or time {row.time_ms} is out of the range of 64-bit integers"
        )
    try:
        return Metric(key, float(value), row.time_ms, row.step)
    except (TypeError, ValueError, OverflowError) as err:
        raise Refused(f"{key}={value!r} is not a number") from err


def fitting_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags with names and values that MLflow accepts."""
    return {
        metric_key(key): shortened(str(value), MAX_TAG_VAL_LENGTH) for key, value in tags.items()
    }


def shortened(text: str, limit: int) -> str:
    """Escapes NUL characters, and replaces the end of text longer than `limit` with a hash."""
    text = text.replace("\0", "\\0")
    if len(text) <= limit:
        return text
    tail = f"... sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return text[: limit - len(tail)] + tail


def batches(entities: Iterable[_Entity], size: int) -> Iterator[list[_Entity]]:
    """Splits entities into batches of at most `size` entities that fit in one request."""
    batch: list[_Entity] = []
    n_bytes = 0
    for entity in entities:
        # JSON needs up to 12 bytes per character
        n = 200 + 12 * (len(entity.key) + len(str(entity.value)))
        if batch and (len(batch) == size or n_bytes + n > MAX_BATCH_LOG_REQUEST_SIZE):
            yield batch
            batch, n_bytes = [], 0
        batch.append(entity)
        n_bytes += n
    if batch:
        yield batch
