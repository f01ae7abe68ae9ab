"""The TensorBoard client, which runs in the shipper without TensorFlow or torch.

Records in an event file cannot be replaced, so a run has three kinds of event files. In `*.rows`,
each event represents one metric row, histogram record, figure or table of the journal, so the
number of events shows how much was delivered. `*.about` contains text files, tags, hyperparameters
and the outcome, and is rewritten each time the run starts or resumes. `*.system` contains CPU,
memory and GPU usage.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.metadata import create_summary_metadata
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from nntrain.integrations import tracker as base
from nntrain.result import exit_code


class TensorBoardClient(base.TrackerClient):
    """Writes the event files of one run at a time, below `log_dir`."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._writers: dict[str, EventFileWriter] = {}
        self._tags: dict[str, str] = {}
        self._time_ms = 0

    def start(self, run: base.RunInfo, run_id: str | None = None) -> base.Started:
        """Opens the run's folder, whose name ends in the `uid`, and counts the stored rows."""
        self._close()
        folder = _folder(self._log_dir, run)
        if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self._log_dir)):
            raise base.Refused(f"{folder} leads out of {self._log_dir} by a symbolic link")
        n_row = sum(_n_row(path) for path in folder.glob("*.rows"))
        for path in folder.glob("*.about"):
            path.unlink()
        for kind in ("about", "rows", "system"):
            self._writers[kind] = EventFileWriter(str(folder), filename_suffix=f".{kind}")
        self._tags, self._time_ms = {}, run.time_ms
        if not run.is_study:  # the HPARAMS tab compares trials, so the study's own run is left out
            params = {key: _param(value) for key, value in run.params.items()}
            summary = summary_v2.hparams_pb(params, folder.name, run.time_ms / 1000)
            self._write("about", summary.value)
        for name, text in run.texts.items():
            self._write("about", text_pb(f"nntrain/{name}", textwrap.indent(text, " " * 4)).value)
        self.set_tags(run.tags)
        look = f"look at it:      tensorboard --logdir {shlex.quote(str(self._log_dir))}"
        name = folder.relative_to(self._log_dir).as_posix()
        return base.Started(name, f"TensorBoard run: {run.name or name}\n{look}", n_row)

    def lost(self, run: base.RunInfo, run_id: str, last: Mapping[str, float]) -> base.Lost | None:
        """Returns a reason if the folder of the run does not exist."""
        folder = _folder(self._log_dir, run)
        return None if folder.is_dir() else base.Lost(f"its folder {folder} does not exist")

    def metrics(self, rows: Sequence[base.MetricRow]) -> None:
        """Writes each row as one event; TensorBoard's scalars have single precision."""
        self._scalars("rows", rows)

    def system(self, rows: Sequence[base.MetricRow]) -> None:
        """Writes samples to a separate file, so that they do not change the number of rows."""
        self._scalars("system", rows)

    def histograms(
        self, row: base.MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Writes histograms, without the empty bins at either end, which would waste space."""
        self._time_ms = row.time_ms
        values = [_histogram(name, edges, n) for name, n in counts.items()]
        self._write("rows", values, row.step)

    def figure(self, path: Path, name: str, step: int) -> None:
        """Writes an image; writes an empty event if the image cannot be read.

        The empty event keeps the number of events equal to the number of delivered rows.

        Raises:
            Refused: if the image cannot be read.
        """
        values = []
        try:
            with Image.open(path) as image:
                size = {"width": image.width, "height": image.height}
            content = Summary.Image(**size, encoded_image_string=path.read_bytes())
            values = [Summary.Value(tag=name, image=content)]
        except (FileNotFoundError, UnidentifiedImageError) as err:
            raise base.Refused(str(err)) from err
        finally:
            self._write("rows", values, step)

    def table(self, table: base.Table, step: int) -> None:
        """Writes a table as Markdown text."""
        self._write("rows", _table(table.name, [table.columns, *table.rows]), step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Writes all tags of the run as one table."""
        self._tags |= tags
        self._write("about", _table("nntrain/tags", [("tag", "value"), *self._tags.items()]))

    def finish(self, end: base.RunEnd) -> None:
        """Writes the outcome as text and as the status in the HPARAMS tab."""
        self._time_ms = end.time_ms
        failed = exit_code(end.reason, end.signum) != 0
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=end.time_ms / 1000)
        data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
        about = metadata.create_summary_metadata(data)
        tag, nothing = metadata.SESSION_END_INFO_TAG, metadata.NULL_TENSOR
        ended = Summary.Value(tag=tag, metadata=about, tensor=nothing)
        outcome = _table("nntrain/outcome", [("outcome", "message"), (end.reason, end.message)])
        self._write("about", [*outcome, ended])
        self._close()

    def _scalars(self, kind: str, rows: Sequence[base.MetricRow]) -> None:
        for row in rows:
            self._time_ms = row.time_ms
            values = [Summary.Value(tag=key, simple_value=row.values[key]) for key in row.values]
            self._write(kind, values, row.step)

    def _write(self, kind: str, values: Iterable[Any], step: int = 0) -> None:
        event = Event(wall_time=self._time_ms / 1000, step=step, summary=Summary(value=values))
        self._writers[kind].add_event(event)
        self._writers[kind].flush()

    def _close(self) -> None:
        while self._writers:
            with suppress(OSError):  # the disk may be full; the next start counts the rows on disk
                self._writers.popitem()[1].close()


def _folder(log_dir: Path, run: base.RunInfo) -> Path:
    """Returns the folder of a run; a trial's folder is inside its study's folder."""
    above = log_dir / _label(run.group, run.parent) if run.parent else log_dir
    own = _label(run.group if run.is_study else run.name, run.uid)
    return next(above.glob(f"*-{own.rpartition('-')[2]}"), above / own)


def _label(name: str | None, uid: str) -> str:
    label = re.sub(r"[^\w .=-]", "_", f"{name or 'run'}-{uid}")[-80:]
    return label.encode()[-240:].decode(errors="ignore")


def _n_row(path: Path) -> int:
    """Returns the number of events in a file, without the header and an incomplete last event."""
    return max(0, sum(1 for _ in RawEventFileLoader(str(path)).Load()) - 1)


def _param(value: Any) -> bool | float | str:
    """Returns a finite number unchanged, and any other value as a string.

    The HPARAMS tab shows no runs at all if a number is not finite.
    """
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return value
    return str(value)


def _histogram(name: str, edges: Sequence[float], counts: Sequence[float]) -> Any:
    bins = np.stack([edges[:-1], edges[1:], counts], axis=1).astype(np.float64)
    used = np.flatnonzero(bins[:, 2])
    rows = bins[used[0] : used[-1] + 1] if len(used) else bins[:0]
    about = create_summary_metadata("", "")
    return Summary.Value(tag=name, metadata=about, tensor=make_tensor_proto(rows))


def _table(name: str, rows: Iterable[Iterable[Any]]) -> Any:
    head, *others = ([_cell(cell) for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *others]
    return text_pb(name, "\n".join(f"| {' | '.join(line)} |" for line in lines)).value


def _cell(value: Any) -> str:
    """Escapes a value for a cell of a Markdown table."""
    text = "" if value is None else str(value).replace("<", "&lt;")
    return "<br>".join(re.sub(r"([\\`*_|\[])", r"\\\1", text).splitlines())
