"""Output to a console that is closed, gone or limited to ASCII never ends a program."""

import errno
import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from nntrain.core.streams import ConsoleFile, SafeStream

REPORT = """
import os, sys
from nntrain.core.streams import open_streams
open_streams()
print("é"); print("é", file=sys.stderr); sys.stdin.read()
assert os.pipe()[0] > 2
open("report", "w").write(" ".join(
    ["null" if os.path.samestat(os.fstat(fd), os.stat(os.devnull)) else "own" for fd in range(3)]))
"""


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        ("", "own own own"),
        ("<&-", "null own own"),
        (">&-", "own null own"),
        ("2>&-", "own own null"),
        ("<&- >&- 2>&-", "null null null"),
    ],
)
def test_streams_that_were_closed_at_the_start_are_opened(
    tmp_path: Path, closed: str, expected: str
) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    command = f"exec {sys.executable} report.py {closed}"
    done = subprocess.run(command, shell=True, input=b"", capture_output=True, check=False)
    assert (done.returncode, (tmp_path / "report").read_text()) == (0, expected), done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_console_cannot_show_are_escaped(encoding: str) -> None:
    code = "from nntrain.core.streams import open_streams; open_streams(); print('a \\u2713 b')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"a \\u2713 b\n"


def _pipe_without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _closed_terminal() -> int:
    controller, terminal = pty.openpty()
    os.close(controller)
    return terminal


def _full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


GONE = [_pipe_without_reader, _closed_terminal, _full_disk]


@pytest.mark.parametrize("make", GONE)
def test_text_for_a_console_that_is_gone_is_dropped(make: Callable[[], int]) -> None:
    fd = make()
    with pytest.raises(OSError, match=r"(Broken pipe|Input/output error|No space left on device)"):
        os.write(fd, b"x")
    with io.TextIOWrapper(io.BufferedWriter(ConsoleFile(fd, "w")), encoding="utf-8") as stream:
        for _ in range(2):
            stream.write("a line\n" * 10_000)
            stream.flush()


def test_a_busy_console_gets_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = b"x" * 300_000
    with subprocess.Popen(["wc", "-c"], stdin=reader, stdout=subprocess.PIPE) as count:
        os.close(reader)
        with io.BufferedWriter(ConsoleFile(writer, "w")) as file:
            file.write(text)
        assert int(count.communicate()[0]) == len(text)


class Gone(io.StringIO):
    """A stream whose console is gone."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("stream", [None, Gone(), io.StringIO()], ids=["None", "gone", "open"])
def test_output_of_a_library_survives(stream: TextIO | None) -> None:
    safe = SafeStream(lambda: stream)
    assert safe.write("text") == 4
    safe.flush()
    assert not safe.isatty()
    if isinstance(stream, io.StringIO) and not isinstance(stream, Gone):
        assert stream.getvalue() == "text"
