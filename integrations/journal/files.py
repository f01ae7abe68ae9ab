"""Files of a run, stored in a folder next to its journal."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nntrain.config.redact import redact_text
from nntrain.core.sinks import create_below, link_below, make_below

if TYPE_CHECKING:
    from nntrain.core.run_log import Figure

_LOG = logging.getLogger("nntrain")

FOLDER = "files"
"""The folder next to the journal that contains the files of its records."""

DPI = 150
"""Resolution of saved figures, in dots per inch."""


class Files:
    """Stores the files of a run. Methods return paths relative to the folder of the journal.

    Args:
        folder: the folder of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._n = 0

    def copy(self, path: Path) -> str:
        """Copies a file."""
        with open(path, "rb") as source, self._new(path.name) as (file, place):
            shutil.copyfileobj(source, file)
        return place

    def link(self, path: Path) -> str:
        """Links a file that will never be modified in place, only replaced, like a checkpoint."""
        place = self._place(path.name)
        return place if link_below(path.resolve(), self._folder, place) else self.copy(path)

    def draw(self, figure: Figure, name: str) -> str:
        """Saves a figure as an image."""
        with self._new(name) as (_, place), hidden_texts(figure):
            figure.savefig(self._folder / place, dpi=DPI)  # an own class may expect a path
        return place

    def inside(self, path: Path) -> str:
        """Returns a file's path in the journal's folder; links the file if it is elsewhere."""
        if path.is_relative_to(self._folder):
            return str(path.relative_to(self._folder))
        return self.link(path)

    @contextmanager
    def _new(self, name: str) -> Iterator[tuple[BinaryIO, str]]:
        """Creates a new file, and yields it and its path; removes the file if writing fails."""
        place = self._place(name)
        with open(create_below(self._folder, place), "wb") as file:
            try:
                yield file, place
            except BaseException:
                os.unlink(self._folder / place)
                raise

    def _place(self, name: str) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        make_below(self._folder, FOLDER)
        while True:
            self._n += 1
            place = f"{FOLDER}/{self._n:04}-{Path(name).name}"
            path = self._folder / place
            if not (path.exists() or path.is_symlink()):
                return place


@contextmanager
def hidden_texts(figure: Figure) -> Iterator[None]:
    """Removes secrets from the texts of a matplotlib figure, such as its title, while it is saved.

    Other figures are saved as they are.
    """
    texts = [
        (one, text)
        for one in getattr(figure, "findobj", list)()
        if isinstance(text := getattr(one, "get_text", str)(), str) and redact_text(text) != text
    ]
    for one, text in texts:
        one.set_text(redact_text(text))
    try:
        yield
    finally:
        for one, text in texts:
            one.set_text(text)


@contextmanager
def warning_if_unwritable(path: Path) -> Iterator[None]:
    """Logs an `OSError`, such as a full disk, as a warning so that training continues."""
    try:
        yield
    except OSError as err:
        _LOG.warning("%s could not be stored with the run: %s", path, err)
