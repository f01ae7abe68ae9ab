"""Files of a run, stored in a folder next to its journal."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nntrain.core.files import link_or_copy

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
        place = self._place(path.name)
        shutil.copyfile(path, self._folder / place)
        return place

    def link(self, path: Path) -> str:
        """Links a file that will never be modified in place, only replaced, like a checkpoint."""
        place = self._place(path.name)
        link_or_copy(path.resolve(), self._folder / place)
        return place

    def draw(self, figure: Figure, name: str) -> str:
        """Saves a figure as an image."""
        place = self._place(name)
        figure.savefig(self._folder / place, dpi=DPI)
        return place

    def inside(self, path: Path) -> str:
        """Returns a file's path in the journal's folder; links the file if it is elsewhere."""
        if path.is_relative_to(self._folder):
            return str(path.relative_to(self._folder))
        return self.link(path)

    def _place(self, name: str) -> str:
        (self._folder / FOLDER).mkdir(parents=True, exist_ok=True)
        while True:
            self._n += 1
            place = f"{FOLDER}/{self._n:04}-{Path(name).name}"
            if not (self._folder / place).exists():
                return place


@contextmanager
def warning_if_unwritable(path: Path) -> Iterator[None]:
    """Logs an `OSError`, such as a full disk, as a warning so that training continues."""
    try:
        yield
    except OSError as err:
        _LOG.warning("%s could not be stored with the run: %s", path, err)
