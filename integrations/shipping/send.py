"""Sends a single record of a journal to the client of a tracker."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from nntrain.integrations.journal.records import Record
from nntrain.integrations.tracker import MetricRow, ModelFile, Refused, Table, TrackerClient

Trust = Callable[[Record], Sequence[str]]
"""Returns the packages that the model of a record may use, in addition to nntrain's catalog."""


def trust_nobody(record: Record) -> Sequence[str]:
    """Returns no packages."""
    return ()


def trust_the_record(record: Record) -> Sequence[str]:
    """Returns the packages that the record names; only for a journal of the parent process."""
    names: Sequence[str] = record["trusted_targets"]
    return names


def send(client: TrackerClient, record: Record, folder: Path, trust: Trust = trust_nobody) -> None:
    """Sends a record other than metrics; ignores records of an unknown kind.

    Args:
        client: the client, with its run already started.
        record: the record.
        folder: the folder of the journal; paths in records are relative to this folder.
        trust: which packages a model may use. The record's own list is only data, because the
            journal may come from somebody else.

    Raises:
        Unsupported: if the tracker cannot store records of this kind.
        Refused: if the tracker will never accept this record.
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
            client.model(_model(record, folder, trust(record)))


def _model(record: Record, folder: Path, trusted: Sequence[str]) -> ModelFile:
    file, aliases = _file(record, folder), tuple(record["aliases"])
    return ModelFile(file, record["name"], aliases, record["node"], tuple(trusted))


def _file(record: Record, folder: Path) -> Path:
    """Returns the file of a record.

    The file must be in the journal's folder, because a journal may come from an untrusted source.

    Raises:
        Refused: if the file is outside the folder or does not exist.
    """
    folder = folder.resolve()
    try:
        path = Path(folder, record["path"]).resolve()
        is_inside, is_file = path.is_relative_to(folder), path.is_file()
    except (RuntimeError, ValueError) as err:  # for example a link to itself, or a NUL character
        raise Refused(f"{record['path']!a} is not a path: {err}") from err
    except OSError as err:
        if err.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        raise Refused(f"{ascii(record['path'])[:100]} is not a path: {err.strerror}") from err
    if not is_inside:
        raise Refused(f"{record['path']} is outside the folder of the run")
    if not is_file:
        raise Refused(f"{record['path']} does not exist, or is not a file")
    return path
