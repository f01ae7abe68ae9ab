"""Sending a single record of a journal to the client of a tracker."""

from __future__ import annotations

from pathlib import Path

from nntrain.integrations.journal.records import Record
from nntrain.integrations.tracker import MetricRow, ModelFile, Refused, Table, TrackerClient


def send(client: TrackerClient, record: Record, folder: Path) -> None:
    """Sends a record other than metrics, and ignores one of an unknown kind.

    Args:
        client: the client, which has started the run.
        record: the record.
        folder: the folder of the journal, which holds the files that records name.

    Raises:
        Unsupported: if the tracker does not keep records of this kind.
        Refused: if the tracker will never accept this one.
    """
    match record["kind"]:
        case "tags":
            client.set_tags(record["tags"])
        case "histograms":
            row = MetricRow(record["time_ms"], record["step"], {})
            client.histograms(row, record["edges"], record["counts"])
        case "figure":
            client.figure(_file(record, folder), record["name"], record["step"])
        case "table":
            table = Table(record["name"], record["columns"], record["rows"])
            client.table(table, record["step"])
        case "artifact":
            client.artifact(_file(record, folder), record["name"], record["aliases"])
        case "model":
            client.model(_model(record, folder))


def _model(record: Record, folder: Path) -> ModelFile:
    aliases, trusted = tuple(record["aliases"]), tuple(record["trusted_targets"])
    return ModelFile(_file(record, folder), record["name"], aliases, record["node"], trusted)


def _file(record: Record, folder: Path) -> Path:
    """The file of a record; it must lie in the journal's folder, as strangers may send journals.

    Raises:
        Refused: if it lies elsewhere or does not exist.
    """
    folder = folder.resolve()
    try:
        path = Path(folder, record["path"]).resolve()
    except (RuntimeError, ValueError) as err:  # a link to itself; a NUL
        raise Refused(f"{record['path']!r} is not a path: {err}") from err
    if not path.is_relative_to(folder):
        raise Refused(f"{record['path']} is outside the folder of the run")
    if not path.is_file():
        raise Refused(f"{record['path']} does not exist")
    return path
