"""A log file that cannot be written costs its messages, and one line on the terminal."""

import logging
from pathlib import Path

import pytest

from nntrain.config.log_file import LogFile
from tests.common.disk import full_disk


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "file.py", 1, text, args, None)


def test_full_disk_is_reported_in_one_line_and_later_messages_are_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = LogFile("run.log", encoding="utf-8")
    with full_disk():
        for text in ("first", "second"):
            log.handle(record(text))
    log.handle(record("third"))
    log.close()
    assert Path("run.log").read_text().splitlines()[-1] == "third"
    path = Path("run.log").absolute()
    assert capsys.readouterr().err == (
        f"nntrain: {path} cannot be written (File too large): training continues\n"
    )


def test_file_that_cannot_be_created_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = LogFile("nowhere/run.log", delay=True)
    for _ in range(3):
        log.handle(record("lost"))
    log.close()
    assert capsys.readouterr().err.count("No such file or directory") == 1


def test_mistake_in_a_log_call_is_still_shown(capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile("run.log")
    log.handle(record("%d", "text"))
    log.close()
    assert "TypeError" in capsys.readouterr().err


def test_a_link_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run.log").symlink_to(tmp_path / "victim")
    log = LogFile("run.log", delay=True)
    log.handle(record("lost"))
    log.close()
    assert "run.log cannot be written (it is a symbolic link)" in capsys.readouterr().err
    assert (tmp_path / "victim").read_text() == "precious"
