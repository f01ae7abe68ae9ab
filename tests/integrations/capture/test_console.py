"""The log file contains the output as plain lines; the terminal shows the output unchanged."""

import io
import logging
import os
import pty
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress as RichProgress
from torch.utils.data import DataLoader, Dataset

from nntrain import Callback, Learner
from nntrain.callbacks import Progress
from nntrain.integrations.capture.console import ConsoleLog
from tests.common.toys import toy_learner


def recorded(path: Path, *texts: str) -> list[str]:
    """Writes strings to standard output and returns the lines of the log file."""
    with ConsoleLog(path, str):
        for text in texts:
            sys.stdout.write(text)
    return path.read_text().splitlines()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a\nb\n"], ["a", "b"]),
        (["a", "\n", "\n", "b"], ["a", "", "b"]),
        (["a\r\nb\r\n"], ["a", "b"]),
        (["\x1b[1;31mred\x1b[0m \x1b]8;;http://h\x1b\\link\x1b]8;;\x1b\\\n"], ["red link"]),
        (["a\x1b", "[3", "1mb\x1b]0;ti", "tle\x1b", "\\c\n"], ["abc"]),
        (["abcdef\rxy\x1b[K\n"], ["xy"]),
        (["abc\x1b[2K\rd\n"], ["d"]),
        (["abc\r\x1b[K\n", "d\x1b[K\n"], ["", "d"]),
        (["1\n2\n3\x1b[2A\r\x1b[Jx\n"], ["x"]),
        (["1\n2\n\x1b[Fx\n"], ["1", "x"]),
        (["a\x07\x00b\x1b[?25l\tc\n"], ["ab\tc"]),
        (["\x1b[" + "9" * 5000 + "C|\n"], ["[" + "9" * 5000 + "C|"]),
        (["\x1b[5A\x1b[9999Ax\n"], ["x"]),
        (["a   \nb", "  "], ["a", "b"]),
    ],
)
def test_the_file_has_plain_lines(
    texts: Sequence[str], expected: list[str], tmp_path: Path
) -> None:
    assert recorded(tmp_path / "log", *texts) == expected


def test_a_line_is_written_to_the_file_when_it_is_complete(tmp_path: Path) -> None:
    sizes = []
    with ConsoleLog(tmp_path / "log", str):
        for text in ("a", "\n", "b\nc", "d\n", "\n"):
            sys.stdout.write(text)
            sizes.append((tmp_path / "log").read_text())
    assert sizes == ["", "a\n", "a\nb\n", "a\nb\ncd\n", "a\nb\ncd\n\n"]


def test_only_the_last_state_of_a_bar_is_kept(tmp_path: Path) -> None:
    bar = [f"\r{i:3}%|{'#' * i}" for i in range(101)]
    assert recorded(tmp_path / "log", *bar, "\n", "after\n") == ["100%|" + "#" * 100, "after"]


def test_a_bar_that_is_erased_leaves_nothing(tmp_path: Path) -> None:
    assert recorded(tmp_path / "log", "\r50%", "\r100%", "\r    \r", "after\n") == ["after"]


def test_lines_above_a_live_display_stay_and_its_own_lines_are_removed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    frame, up = "outer\ninner", "\r\x1b[2K\x1b[1A\x1b[2K"
    lines = []
    with ConsoleLog(log, str):
        for text in (frame, f"{up}one\n{frame}", f"{up}two\n{frame}", up, "three\n"):
            sys.stdout.write(text)
            lines.append(log.read_text().split())
    assert lines == [
        ["outer"],
        ["one", "outer"],
        ["one", "two", "outer"],
        ["one", "two"],
        ["one", "two", "three"],
    ]


def test_lines_of_the_other_stream_and_of_earlier_runs_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("earlier\n")
    with ConsoleLog(tmp_path / "log", str):
        print("mine")
        print("yours", file=sys.stderr)
        sys.stdout.write("\x1b[9A")
    assert (tmp_path / "log").read_text() == "earlier\nmine\nyours\n"
    assert recorded(tmp_path / "log", "a\n\x1b[9A") == ["earlier", "mine", "yours"]


@pytest.mark.parametrize("leave", [False, True])
def test_nested_tqdm_bars_leave_their_last_state_or_nothing_if_erased(
    leave: bool, tmp_path: Path
) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    with ConsoleLog(tmp_path / "log", str):
        options: dict[str, Any] = {
            "file": sys.stdout,
            "mininterval": 0,
            "ascii": True,
            "bar_format": "{desc}{n}/{total}",
        }
        for epoch in tqdm(range(2), desc="epochs ", leave=leave, **options):
            for _ in tqdm(range(3), desc="batches ", leave=False, **options):
                pass
            tqdm.write(f"epoch {epoch}", file=sys.stdout)
            assert f"epoch {epoch}" in (tmp_path / "log").read_text().splitlines()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == ["epoch 0", "epoch 1", *(["epochs 2/2"] if leave else [])]


@contextmanager
def _terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """Redirects `sys.stdout` to a pseudo-terminal that a background thread drains."""
    reader, writer = pty.openpty()
    stream = io.TextIOWrapper(
        os.fdopen(writer, "wb", buffering=0), encoding="utf-8", write_through=True
    )
    drain = threading.Thread(target=_drain, args=(reader,), daemon=True)
    drain.start()
    monkeypatch.setattr(sys, "stdout", stream)
    yield stream
    monkeypatch.undo()
    stream.close()
    drain.join()
    os.close(reader)


def _drain(reader: int) -> None:
    with suppress(OSError):  # Linux raises an error when the other end is closed
        while os.read(reader, 4096):
            pass


class Talks(Callback):
    """Prints in the middle of an epoch."""

    def after_train(self, learn: Learner) -> None:
        print(f"trained {learn.epoch}")


def test_the_bars_of_a_fit_on_a_terminal_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _terminal(monkeypatch) as terminal, ConsoleLog(tmp_path / "log", str):
        console = Console(
            force_terminal=True,
            force_interactive=True,
            width=100,
            _environ={"TERM": "xterm-256color"},
        )
        assert terminal.isatty() is console.is_interactive is True
        learn = toy_learner(cbs=[Progress(interval_s=0, console=console), Talks()])
        learn.fit(3)
        print("end")
    lines = (tmp_path / "log").read_text().splitlines()
    losses = [f"{row['train/loss']:.6f}" for row in learn.recorder.rows]
    assert [line.split()[:2] for line in lines] == [
        *(["trained", "0"], ["epoch", "train/loss"], ["0", losses[0]]),
        *(["trained", "1"], ["1", losses[1]]),
        *(["trained", "2"], ["2", losses[2]]),
        ["end"],
    ]


def test_bars_that_stay_are_in_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _terminal(monkeypatch), ConsoleLog(tmp_path / "log", str):
        console = Console(
            force_terminal=True,
            force_interactive=True,
            width=100,
            _environ={"TERM": "xterm-256color"},
        )
        with RichProgress(
            "{task.description}", "{task.completed}", console=console, auto_refresh=False
        ) as bars:
            tasks = [bars.add_task(name, total=5) for name in ("first", "second")]
            for i in range(10):
                bars.advance(tasks[i % 2])
                bars.refresh()
        print("end")
    assert (tmp_path / "log").read_text().split() == ["first", "5", "second", "5", "end"]


def test_everything_that_python_prints_is_in_the_file_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    log = logging.getLogger("test_console")
    log.addHandler(handler)
    print("before")
    with ConsoleLog(tmp_path / "log", str):
        print("print", 1)
        assert sys.stdout.write("héλ\n") == 4
        sys.stdout.writelines(["two\n", "lines\n"])
        log.warning("logged")
        print("error", file=sys.stderr)
        assert (tmp_path / "log").read_text() == "print 1\nhéλ\ntwo\nlines\nlogged\nerror\n"
        print("no end", end="")
    print(" after")
    log.removeHandler(handler)
    assert (tmp_path / "log").read_text() == "print 1\nhéλ\ntwo\nlines\nlogged\nerror\nno end\n"
    assert capsys.readouterr() == (
        "before\nprint 1\nhéλ\ntwo\nlines\nno end after\n",
        "logged\nerror\n",
    )


def test_incomplete_lines_of_the_two_streams_do_not_mix(tmp_path: Path) -> None:
    with ConsoleLog(tmp_path / "log", str):
        print("out", end="")
        print("err")
        print("or", file=sys.stderr)
    assert (tmp_path / "log").read_text() == "outerr\nor\n"


def test_lines_are_redacted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleLog(tmp_path / "log", lambda text: text.replace("hunter2", "***")):
        sys.stdout.write("hun")
        sys.stdout.write("\x1b[1mter2\n")
    assert (tmp_path / "log").read_text() == "***\n"
    assert "ter2" in capsys.readouterr().out


def test_the_streams_are_restored(tmp_path: Path) -> None:
    streams = sys.stdout, sys.stderr
    attributes = [dict(vars(stream)) for stream in streams]
    with suppress(ZeroDivisionError), ConsoleLog(tmp_path / "log", str):
        assert (sys.stdout, sys.stderr) == streams
        assert all("write" in vars(stream) for stream in streams)
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr) == streams
    assert [vars(stream) for stream in streams] == attributes


def test_an_error_of_write_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with ConsoleLog(tmp_path / "log", str):
        with pytest.raises(UnicodeEncodeError):
            print("é")
        with pytest.raises(TypeError):
            sys.stdout.write(1)  # type: ignore[arg-type]
    assert (tmp_path / "log").read_text() == "é\n"


def test_a_log_can_be_entered_again(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log", str)
    for i in range(2):
        with log:
            print("inside", i)
        print("outside", i)
    assert (tmp_path / "log").read_text() == "inside 0\ninside 1\n"


def test_two_logs_may_be_entered_and_exited_in_any_order(tmp_path: Path) -> None:
    first, second = ConsoleLog(tmp_path / "1", str), ConsoleLog(tmp_path / "2", str)
    first.__enter__()
    second.__enter__()
    print("both")
    first.__exit__(None, None, None)
    print("second")
    second.__exit__(None, None, None)
    print("none")
    assert [(tmp_path / name).read_text() for name in "12"] == ["both\n", "both\nsecond\n"]


def test_if_both_streams_are_the_same_it_is_recorded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    with ConsoleLog(tmp_path / "log", str):
        print("once", file=sys.stderr)
    assert (tmp_path / "log").read_text() == "once\n"


def test_a_process_may_have_no_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with ConsoleLog(tmp_path / "log", str):
        print("nowhere")
        print("error", file=sys.stderr)
    assert (tmp_path / "log").read_text() == "error\n"


def test_characters_that_cannot_be_encoded_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with ConsoleLog(tmp_path / "log", str):
        print("a\udcffb")
    assert (tmp_path / "log").read_text() == "a\\udcffb\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_logged_once(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with ConsoleLog(Path("/dev/full"), str):
        for i in range(3):
            print(i)
    assert capsys.readouterr().out == "0\n1\n2\n"
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "/dev/full cannot be written ([Errno 28] No space left on device"
    )


def test_a_file_that_cannot_be_created_or_was_closed_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ConsoleLog(tmp_path / "missing" / "log", str):
        print("a")
    log = ConsoleLog(tmp_path / "log", str)
    with log:
        assert log._file is not None
        log._file.close()
        print("b")
        print("c")
    assert [record.getMessage().split(" cannot")[0] for record in caplog.records] == [
        str(tmp_path / "missing" / "log"),
        str(tmp_path / "log"),
    ]


class Prints(Dataset[torch.Tensor]):
    """Prints the index of each requested item."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        print("item", index)
        return torch.tensor(index)


@pytest.mark.slow
def test_forked_workers_do_not_write_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open("w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        _load_while_recorded(tmp_path / "log")
    assert (tmp_path / "log").read_text() == "half a line\n"


def _load_while_recorded(path: Path) -> None:
    with ConsoleLog(path, str):
        sys.stdout.write("half a li")
        loader = DataLoader(Prints(), num_workers=2, multiprocessing_context="fork")
        assert [int(batch) for batch in loader] == [0, 1, 2, 3]
        print("ne")


def test_a_fork_while_another_thread_prints_does_not_block_the_child(tmp_path: Path) -> None:
    with ConsoleLog(tmp_path / "log", str) as log:
        with log._lock:
            pid = os.fork()
            if pid == 0:
                thread = threading.Thread(target=print, args=("child",))
                thread.start()
                thread.join(10)
                os._exit(thread.is_alive())
        assert os.waitpid(pid, 0)[1] == 0
        print("parent")
    assert (tmp_path / "log").read_text() == "parent\n"


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    def talk(name: int) -> None:
        for i in range(200):
            sys.stdout.write(f"{name} {i} {'x' * 50}\n")

    with ConsoleLog(tmp_path / "log", str):
        threads = [threading.Thread(target=talk, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == sorted(
        f"{name} {i} {'x' * 50}" for name in range(4) for i in range(200)
    )


def test_a_signal_handler_may_print_while_a_line_is_recorded(tmp_path: Path) -> None:
    def redact(text: str) -> str:
        if text == "line":
            signal.raise_signal(signal.SIGUSR1)
        return text

    before = signal.signal(signal.SIGUSR1, lambda *_: print("handler"))
    with ConsoleLog(tmp_path / "log", redact):
        print("line")
    signal.signal(signal.SIGUSR1, before)
    assert (tmp_path / "log").read_text() == "line\nhandler\n"


def test_an_interrupt_while_a_line_is_recorded_does_not_end_the_recording(tmp_path: Path) -> None:
    def redact(text: str) -> str:
        if text == "line":
            raise KeyboardInterrupt
        return text

    with ConsoleLog(tmp_path / "log", redact):
        with pytest.raises(KeyboardInterrupt):
            print("line")
        print("next")
    assert (tmp_path / "log").read_text().splitlines()[-1] == "next"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "console.log").symlink_to(tmp_path / "victim")
    with ConsoleLog(tmp_path / "console.log", str):
        print("lost")
    assert (tmp_path / "victim").read_text() == "precious"
