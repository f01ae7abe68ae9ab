"""The door through which texts leave the memory of this process, without secrets.

Files are written with `write_yaml`, `write_table` and `open_text`. `guard` makes the standard
streams and all log messages, whatever handler writes them, go through the door as well.
`tests/test_secrets_door.py` checks that no other code opens a file for text.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from nntrain.config.redact import is_secret, redact, redact_text

# --- files


class TextFile(io.TextIOWrapper):
    """A text file in UTF-8 that contains no secrets."""

    def write(self, text: str, /) -> int:
        """Writes a text without its secrets; returns the length of the text."""
        super().write(redact_text(text))
        return len(text)

    def write_as_is(self, text: str) -> None:
        """Writes a text without secrets, such as the code of a library, as it is."""
        super().write(text)


def open_text(path: Path, mode: Literal["w", "x", "a"] = "w", *, newline: str = "\n") -> TextFile:
    """Opens a file for text in UTF-8 from which all secrets are removed.

    Each call of `write` should pass whole values, because a secret in two parts is not recognized.

    Raises:
        OSError: if the file cannot be opened, for example because it is a symbolic link.
    """
    return TextFile(open(path, f"{mode}b", opener=no_link), encoding="utf-8", newline=newline)


def no_link(path: str, flags: int) -> int:
    """Opens a file for `open`, but not through a symbolic link, which may lead elsewhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_yaml(path: Path, value: Any, mode: Literal["w", "x"] = "w") -> None:
    """Writes a configuration or a list as YAML, without the secrets in its values."""
    with open_text(path, mode) as file:
        # secrets are removed from each value, which cannot damage the syntax of the file
        file.write_as_is(OmegaConf.to_yaml(OmegaConf.create(redact(value))))


def write_runnable(path: Path, config: Mapping[str, Any], comment: str) -> None:
    """Writes a configuration that runs again, and asks for the secrets that it does not contain.

    An interpolation such as `${oc.env:NAME}` is kept. Another value with a secret becomes `???`,
    which Hydra asks for.

    Args:
        path: the file.
        config: the configuration, unresolved.
        comment: the first line of the file.
    """
    text = OmegaConf.to_yaml(OmegaConf.create(_left_out(config)))
    with open_text(path) as file:
        file.write(f"# {comment}\n")
        file.write_as_is(re.sub(rf"{_LEFT_OUT}$", f"???  {_ASK}", text, flags=re.MULTILINE))


_LEFT_OUT = "nntrain-left-out-secret"
_ASK = "# a secret, which is not stored: set this key in the command"


def _left_out(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        # the keys below a secret key, such as `credentials`, are secret too
        above = key if is_secret(key) else ""
        return {name: _left_out(item, above or str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_left_out(item, key) for item in value]
    return value if redact(value, key) == value else _LEFT_OUT


def write_table(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a table as CSV, without the secrets in its cells."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[redact(cell) for cell in row] for row in rows])
    with open_text(path, newline="") as file:
        file.write_as_is(text.getvalue())


def hide_secrets(path: Path) -> None:
    """Removes the secrets from a YAML file that a library has written, if it exists."""
    if path.is_file():
        write_yaml(path, OmegaConf.to_container(OmegaConf.load(path), resolve=False))


# --- streams and messages


def guard() -> None:
    """Removes secrets from everything that this process prints or logs from now on.

    Both streams and the messages of all loggers are covered, also those of other libraries.
    """
    for stream in (sys.stdout, sys.stderr):
        _guard_stream(stream)
    if not isinstance(logging.getLogRecordFactory(), _Records):
        logging.setLogRecordFactory(_Records(logging.getLogRecordFactory()))


def _guard_stream(stream: Any) -> None:
    attributes = getattr(stream, "__dict__", None)  # a stream of other code may have none
    if attributes is None or isinstance(attributes.get("write"), _Write):
        return
    attributes["write"] = _Write(stream.write)


class _Write:
    """The `write` of a stream, without secrets."""

    def __init__(self, write: Callable[[str], int]) -> None:
        self._write = write

    def __call__(self, text: str, /) -> int:
        return self._write(redact_text(text) if isinstance(text, str) else text)


class _Records:
    """Creates log records without secrets in their message and traceback."""

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self._factory = factory

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._factory(*args, **kwargs)
        _clean(record)
        return record


def _clean(record: logging.LogRecord) -> None:
    try:
        message = record.getMessage()
    except (KeyError, TypeError, ValueError):  # logging itself reports this, with the arguments
        record.msg, record.args = redact(record.msg), redact(record.args)
        return
    if (safe := redact_text(message)) != message:
        record.msg, record.args = safe, None
    if record.exc_info and record.exc_info[1] is not None:
        # a formatter uses this text instead of its own
        trace = "".join(traceback.format_exception(*record.exc_info))
        record.exc_text = redact_text(trace.rstrip())
    if record.stack_info:
        record.stack_info = redact_text(record.stack_info)
