"""Temporary files are removed once their process has ended, and no other file is."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nntrain.core.partial import partial_file, remove_partial

OURS, OURS_IN_0_1_0 = ".nntrain-ab_12xyz.part", ".last.ckpt.ab_12xyz.part"

DIE = """
import os, signal, sys
from pathlib import Path
from nntrain.core.partial import partial_file
with partial_file(Path(sys.argv[1])) as (file, path):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def touch(name: str, age_s: float = 0.0) -> Path:
    path = Path(name)
    path.touch()
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    return path


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Path]:
    """A file that a process is writing."""
    with partial_file(tmp_path) as (_, path):
        yield path


def test_only_our_files_are_removed() -> None:
    other = [
        ".hidden",
        ".movie.download.part",
        ".nntrain-notes.part",
        ".notes.ckpt.ab_12xyz.part",
        f"{OURS}.txt",
        f"x{OURS}",
        "last.ckpt",
        "notes.part",
    ]
    for name in (*other, OURS, ".nntrain-ab_12xyz.previous.part"):
        touch(name)
    for name in (OURS_IN_0_1_0, ".best.pt.ab_12xyz.part", ".previous.ckpt.part"):
        touch(name, 4000)
    Path(".nntrain-a_folder.part").mkdir()
    Path(".nntrain-the_link.part").symlink_to("last.ckpt")
    remove_partial(".")
    remove_partial("no such folder")
    remove_partial("last.ckpt")
    links = [".nntrain-a_folder.part", ".nntrain-the_link.part"]
    assert sorted(os.listdir()) == sorted(other + links)


def test_file_that_is_being_written_is_kept(living: Path) -> None:
    remove_partial(living.parent)
    assert living.exists()


def test_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], check=False)
    assert len(os.listdir()) == 1
    remove_partial(tmp_path)
    assert os.listdir() == []


@pytest.mark.parametrize(("age_s", "n_left"), [(10.0, 1), (4000.0, 0)])
def test_without_locks_a_file_is_removed_after_an_hour(
    living: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, n_left: int
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    touch(living.name, age_s)
    remove_partial(".")
    assert len(os.listdir()) == n_left


def test_file_of_0_1_0_which_held_no_lock_is_removed_after_an_hour() -> None:
    touch(OURS_IN_0_1_0)
    remove_partial(".")
    assert os.listdir() == [OURS_IN_0_1_0]


def test_partial_file_is_removed_at_the_end_unless_it_was_renamed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), partial_file(tmp_path):
        raise KeyboardInterrupt
    with partial_file(tmp_path) as (file, path):
        file.write(b"done")
        path.rename("whole")
    assert os.listdir() == ["whole"]
