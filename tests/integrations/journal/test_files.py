"""The files of a run are written in its folder, whatever links are there."""

from pathlib import Path
from typing import Any

import pytest

from nntrain.integrations.journal.files import FOLDER, Files
from nntrain.integrations.journal.records import JOURNAL
from nntrain.integrations.journal.writer import JournalWriter, append_if_free
from tests.common.journals import END, START, append


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside, with a file that must not change."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


class Drawing:
    def savefig(self, fname: Any, **kwargs: Any) -> None:
        """Writes an image."""
        Path(fname).write_text("image")


@pytest.mark.parametrize("way", ["copy", "link", "draw"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_no_link_is_followed(tmp_path: Path, victim: Path, way: str, is_folder: bool) -> None:
    source = tmp_path / "a.png"
    source.write_text("image")
    run = tmp_path / "run"
    run.mkdir()
    if is_folder:
        (run / FOLDER).symlink_to(victim)
    else:
        (run / FOLDER).mkdir()
        (run / FOLDER / "0001-a.png").symlink_to(victim / "new")
    files = Files(run)
    ways = {
        "copy": lambda: files.copy(source),
        "link": lambda: files.link(source),
        "draw": lambda: files.draw(Drawing(), "a.png"),
    }
    if is_folder:
        with pytest.raises(OSError, match="files is a symbolic link"):
            ways[way]()
    else:
        assert ways[way]() == "files/0002-a.png"
        assert (run / "files/0002-a.png").read_text() == "image"
    assert [path.name for path in victim.iterdir()] == ["file"]


def test_a_copy_that_fails_leaves_no_file(tmp_path: Path) -> None:
    class Broken:
        def savefig(self, fname: Any, **kwargs: Any) -> None:
            """Fails, as on a full disk."""
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Files(tmp_path).draw(Broken(), "a.png")
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_journal_that_is_a_link_is_not_written(tmp_path: Path, victim: Path) -> None:
    target = append(victim, [START])
    before = target.read_bytes()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / JOURNAL).symlink_to(target)
    for write in (JournalWriter, lambda path: append_if_free(path, [END])):
        with pytest.raises(OSError, match=r"journal\.jsonl is a symbolic link"):
            write(tmp_path / "run" / JOURNAL)
    assert target.read_bytes() == before
