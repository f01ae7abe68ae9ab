"""The log file of a run, `run.log`."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Any


class LogFile(logging.FileHandler):
    """A log file that does not disturb the program if it cannot be written.

    If the disk is full or the folder is read-only, the terminal shows one warning instead of a
    traceback for each message.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reasons: set[str] = set()

    def _open(self) -> Any:
        if os.path.islink(self.baseFilename):  # the folder may come from somebody else
            raise OSError(errno.ELOOP, "it is a symbolic link", self.baseFilename)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message. Opening the file, which is delayed until then, can fail as well."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Prints one warning for each kind of error of the file system."""
        err = sys.exc_info()[1]
        if not isinstance(err, OSError):
            super().handleError(record)
        elif (reason := err.strerror or str(err)) not in self._reasons:
            self._reasons.add(reason)
            text = f"nntrain: {self.baseFilename} cannot be written ({reason}): training continues"
            print(text, file=sys.stderr)
