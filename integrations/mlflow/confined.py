"""Keeps files inside a store that somebody else may have prepared."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from nntrain.config.redact import redact
from nntrain.integrations.mlflow import sqlite_path
from nntrain.integrations.tracker import Refused


def files_folder(uri: str, location: str) -> Path | None:
    """Returns the folder in which a store keeps files; `None` if a server receives them.

    Args:
        uri: the URI of the store.
        location: where the store says that the files of a run or an experiment are.

    Raises:
        Refused: if the files would leave the store: they must stay beside an SQLite database, or be
            sent to the tracking server itself.
    """
    database, place = sqlite_path(uri), urlsplit(location)
    if database is None:
        if place.scheme == "mlflow-artifacts" and place.hostname in (None, urlsplit(uri).hostname):
            return None
    elif is_local_uri(location):  # type: ignore[no-untyped-call]
        path = str(local_file_uri_to_path(location))  # type: ignore[no-untyped-call]
        folder = Path(os.path.realpath(path))
        if folder.is_relative_to(os.path.realpath(database.parent)):
            return folder
    raise Refused(
        f"{redact(uri)} would store files in {redact(location)}: if you trust this store, name it "
        "with --to mlflow --set tracking_uri=..."
    )


def check_inside(folder: Path, name: str) -> None:
    """Checks that no symbolic link leads out of a folder.

    Raises:
        Refused: if one does.
    """
    if not Path(os.path.realpath(folder / name)).is_relative_to(folder):
        raise Refused(f"{name} leads out of {folder} by a symbolic link")
