"""Reads event files with TensorBoard's own readers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.plugins.text.text_plugin import text_array_to_html
from tensorboard.util.tensor_util import make_ndarray

SIZES = {"compressedHistograms": 0, "images": 0, "scalars": 0, "tensors": 0}
"""The number of values per tag that TensorBoard's reader keeps; 0 means all."""


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance=SIZES).Reload()


def text(folder: Path, tag: str) -> str:
    """Returns the most recent text that was logged under a tag."""
    [content] = make_ndarray(read(folder).Tensors(tag)[-1].tensor_proto).reshape(-1)
    return str(content.decode())


def html(folder: Path, tag: str) -> str:
    """Returns the HTML that TensorBoard displays for the most recent text of a tag."""
    content = make_ndarray(read(folder).Tensors(tag)[-1].tensor_proto)
    return str(text_array_to_html(content, True))


def sessions(log_dir: Path) -> dict[str, Any]:
    """Returns the rows of the HPARAMS tab by name, as TensorBoard's backend computes them."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(log_dir))
    provider = data_provider.MultiplexerDataProvider(multiplexer.Reload(), str(log_dir))
    context = backend_context.Context(TBContext(data_provider=provider, logdir=str(log_dir)))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=api_pb2.Status.values(),
        include_metrics=True,
    )
    groups = Handler(RequestContext(), context, "", request).run().session_groups
    return {group.name: group for group in groups}


def shown(group: Any) -> dict[str, Any]:
    """Returns the params of a row of the HPARAMS tab."""
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def cells(markdown: str) -> list[list[str]]:
    """Returns the rows of a Markdown table, including the header, without escape characters."""
    lines = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in markdown.splitlines()]
    return [[re.sub(r"\\(.)", r"\1", cell) for cell in line] for line in lines if line[0] != "---"]


def number(cell: str) -> Any:
    return json.loads(cell) if re.fullmatch(r"[\d.]+", cell) else cell
