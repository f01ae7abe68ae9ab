"""Files are written below a folder only, whatever links and names the folder contains."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nntrain.core.sinks import (
    check_part,
    create_below,
    link_below,
    make_below,
    open_below,
    replace_below,
)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside, with a file that must not change."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def opened(folder: Path, place: str) -> None:
    with open(open_below(folder, place, os.O_RDWR | os.O_CREAT), "rb+") as file:
        file.write(b"x")


def created(folder: Path, place: str) -> None:
    with open(create_below(folder, place), "wb") as file:
        file.write(b"x")


def replaced(folder: Path, place: str) -> None:
    replace_below(folder, place, [b"x"])


def linked(folder: Path, place: str) -> None:
    source = folder / "source"
    source.write_text("x")
    if not link_below(source, folder, place):
        raise OSError("not linked")


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "open": opened,
    "create": created,
    "replace": replaced,
    "link": linked,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_written_in_missing_folders(folder: Path, writer: str) -> None:
    WRITERS[writer](folder, "a/b/c")
    assert (folder / "a/b/c").read_text() == "x"


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", ["a/file", "a/b/file"])
def test_a_folder_that_is_a_link_is_refused(
    folder: Path, victim: Path, writer: str, place: str
) -> None:
    (folder / "a").symlink_to(victim)
    with pytest.raises(OSError, match=r"a is a symbolic link"):
        WRITERS[writer](folder, place)
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "precious"


@pytest.mark.parametrize("writer", ["open", "create", "link"])
@pytest.mark.parametrize("target", ["file", "missing"])
def test_a_file_that_is_a_link_is_not_followed(
    folder: Path, victim: Path, writer: str, target: str
) -> None:
    (folder / "a").symlink_to(victim / target)
    with pytest.raises(OSError):  # noqa: PT011 - "is a symbolic link", or that the file exists
        WRITERS[writer](folder, "a")
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "precious"


def test_a_file_that_is_a_link_is_replaced(folder: Path, victim: Path) -> None:
    for name in ("a.json", "a.part"):
        (folder / name).symlink_to(victim / "file")
    replace_below(folder, "a.json", [b"x"], sync=True)
    assert (folder / "a.json").read_text() == "x"
    assert not (folder / "a.json").is_symlink()
    assert (victim / "file").read_text() == "precious"
    assert not (folder / "a.part").is_symlink()


def test_the_folder_itself_may_be_a_link(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    replace_below(tmp_path / "link", "a", [b"x"])
    assert (folder / "a").read_text() == "x"


def test_a_pipe_is_refused_instead_of_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "a")
    for flags in (os.O_RDWR | os.O_CREAT, os.O_WRONLY, os.O_RDONLY):
        with pytest.raises(OSError, match="is not a regular file"):
            open_below(folder, "a", flags)


NAMES = ["", ".", "..", "a/b", "/a", "a\0b", "\ud800", "a" * 256, "é" * 128]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_or_is_no_name_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        check_part(name)
    if "/" not in name[1:]:
        with pytest.raises(ValueError, match="cannot be the name of a file"):
            make_below(folder, name)


@pytest.mark.parametrize("name", ["a", "..a", "a.json", "é", " ", "~", "a" * 255])
def test_other_names_are_accepted(folder: Path, name: str) -> None:
    check_part(name)
    make_below(folder, name)
    assert (folder / name).is_dir()


@pytest.mark.parametrize("writer", ["opened", "replaced"])
def test_a_folder_in_the_place_of_a_file_is_named_with_its_path(folder: Path, writer: str) -> None:
    (folder / "a/file").mkdir(parents=True)
    with pytest.raises(OSError, match=str(folder / "a/file")):
        {"opened": opened, "replaced": replaced}[writer](folder, "a/file")


def test_a_file_in_the_place_of_a_folder_is_named_with_its_path(folder: Path) -> None:
    (folder / "a").touch()
    with pytest.raises(OSError, match=f"{folder / 'a'} is not a folder: remove it"):
        opened(folder, "a/file")
