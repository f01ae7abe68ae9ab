"""The policy for files that a callback cannot write."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

from nntrain.checkpoint import CheckpointWriteError

_log = logging.getLogger("nntrain")

OnError: TypeAlias = Literal["warn", "stop"]
"""Whether training continues or stops if a file cannot be written."""


class WriteErrors:
    """Logs a warning for the first error of each kind and counts the others, or raises.

    Args:
        owner: the callback, for error messages.
        on_error: `"warn"` or `"stop"`.

    Raises:
        ValueError: if `on_error` is unknown.
    """

    def __init__(self, owner: object, on_error: OnError) -> None:
        if on_error not in get_args(OnError):
            raise ValueError(
                f"on_error={on_error!r} of {type(owner).__name__} must be 'warn', to continue "
                "training if a file cannot be written, or 'stop'."
            )
        self.on_error = on_error
        self.reset()

    def reset(self) -> None:
        """Forgets all errors; call this when a fit starts."""
        self._n_saves, self._errors, self._last_failed = 0, list[CheckpointWriteError](), False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Context manager for a block that writes one file.

        Raises:
            CheckpointWriteError: if the file cannot be written and `on_error` is `"stop"`.
        """
        self._n_saves += 1
        try:
            yield
            self._last_failed = False
        except CheckpointWriteError as err:
            if self.on_error == "stop":
                raise
            if err.reason not in {earlier.reason for earlier in self._errors}:
                _log.warning("%s; training continues", str(err).removesuffix("."))
            self._errors.append(err)
            self._last_failed = True

    def report(self) -> None:
        """Logs how many saves of the fit failed, and why; call this when a fit ends."""
        if self._errors:
            reasons = ", ".join(dict.fromkeys(error.reason for error in self._errors))
            _log.warning(
                "%d of %d saves of %s failed (%s)%s",
                len(self._errors),
                self._n_saves,
                self._errors[-1].path,
                reasons,
                ", and so did the last one" if self._last_failed else "",
            )
        self.reset()
