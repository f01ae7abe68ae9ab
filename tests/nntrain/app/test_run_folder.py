"""Checks of the folder of a run, what is written to it, and the removal of empty folders."""

import os
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nntrain.app import run_folder
from nntrain.app.run_folder import (
    check_resumable,
    check_run_folder,
    remove_if_empty,
    write_config,
)
from nntrain.config.errors import ConfigError
from nntrain.config.redact import Redactor
from nntrain.integrations.journal.records import JOURNAL
from nntrain.integrations.journal.writer import JournalWriter
from tests.common.cli import tree
from tests.common.journals import START, append

MARKS = ["journal.jsonl", "last.ckpt", ".hydra/config.yaml", ".hydra/overrides.yaml"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of an earlier run."""
    folder = tmp_path / "a run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "last.ckpt").touch()
    return folder


@pytest.mark.parametrize("mark", MARKS)
def test_a_folder_that_contains_a_run_is_refused(tmp_path: Path, mark: str) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / mark).touch()
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="already contains a run: choose another folder"):
        check_run_folder(tmp_path, None)
    assert tree(tmp_path) == before


def test_the_refusal_names_the_command_that_continues_the_run(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_run_folder(run, None)
    assert str(caught.value).endswith(f"""continue that run with 'resume="{run}"'.""")


def test_a_run_may_resume_in_its_own_folder_only(run: Path, tmp_path: Path) -> None:
    check_run_folder(run, run)
    check_run_folder(run, run / "last.ckpt")
    check_run_folder(run, Path(os.path.relpath(run)))
    with pytest.raises(ConfigError, match="already contains a run"):
        check_run_folder(run, tmp_path)


def test_a_new_folder_and_a_folder_with_other_files_are_free(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    before = tree(tmp_path)
    check_run_folder(tmp_path, None)
    check_run_folder(tmp_path / "outputs" / "new", None)
    check_run_folder(tmp_path / ("x" * 255), None)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/proc/run", "/proc is not writable: No such file or directory"),
        ("file/run", "file is not a folder"),
        ("x" * 256, "File name too long"),
        ("new/" + "é" * 128, "File name too long"),
        ("new/" + "x/" * 3000, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_created_is_refused_in_one_sentence(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"cannot be created \(.*{reason}\): choose another"):
        check_run_folder(tmp_path / name, None)


@pytest.mark.parametrize("name", [".hydra", "files", "delivery"])
@pytest.mark.parametrize("has_file", [True, False])
def test_a_folder_in_which_a_subfolder_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, has_file: bool
) -> None:
    if has_file:
        (tmp_path / name).touch()
    else:
        (tmp_path / name).mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=f"{name} is not a folder that you can write to"):
        check_run_folder(tmp_path, None)


def test_a_configuration_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".hydra").touch()
    with pytest.raises(ConfigError, match=r"cannot be written \(File exists\): choose another"):
        write_config(tmp_path, OmegaConf.create(), [], Redactor())


@pytest.mark.parametrize("name", [".", "journal.jsonl", "delivery"])
def test_a_run_that_may_not_be_changed_is_continued_only_without_a_tracker(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (run / "delivery").mkdir()
    append(run, [START])
    locked = run / name
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    check_resumable(run, tracked=False)
    with pytest.raises(ConfigError, match=f"{locked} may not be written: copy the folder, or add"):
        check_resumable(run, tracked=True)


def test_a_run_that_is_still_running_cannot_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "CLOSE_WAIT_S", 0.2)
    with JournalWriter(tmp_path / "journal.jsonl"):
        for resume in (tmp_path, tmp_path / "last.ckpt"):
            with pytest.raises(ConfigError, match=r"is still running: stop that run first"):
                check_resumable(resume, tracked=True)
    check_resumable(tmp_path, tracked=False)


def continued(folder: Path, *, checkpoint: bool) -> tuple[Path, Path]:
    """Returns the folders of a run and of its continuation."""
    first, second = folder / "first", folder / "second"
    append(first, [START, {"kind": "continued", "by": str(second / JOURNAL)}])
    append(second, [START])
    (first / "last.ckpt").touch()
    if checkpoint:
        (second / "last.ckpt").touch()
    return first, second


def test_a_run_that_was_continued_is_not_continued_a_second_time(tmp_path: Path) -> None:
    first, second = continued(tmp_path, checkpoint=True)
    with pytest.raises(ConfigError, match=f"already continued in {second}.*use resume={second},"):
        check_resumable(first, tracked=True)
    check_resumable(first, tracked=False)
    check_resumable(second, tracked=True)


def test_a_continuation_that_died_before_its_first_checkpoint_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = continued(tmp_path, checkpoint=False)
    check_resumable(first, tracked=True)
    monkeypatch.setattr(run_folder, "CLOSE_WAIT_S", 0.2)
    with (
        JournalWriter(second / JOURNAL),
        pytest.raises(ConfigError, match=f"resume={first} is still running in {second}: stop"),
    ):
        check_resumable(first, tracked=True)


def test_of_two_runs_that_begin_at_once_in_a_folder_the_second_is_refused(tmp_path: Path) -> None:
    first, second = (OmegaConf.create({"lr": lr}) for lr in (0.1, 0.2))
    write_config(tmp_path, first, [], Redactor())
    with pytest.raises(ConfigError, match="already contains a run"):
        write_config(tmp_path, second, [], Redactor())
    assert OmegaConf.load(tmp_path / ".hydra" / "config.yaml") == first
    write_config(tmp_path, second, [], Redactor(), replace=True)
    assert OmegaConf.load(tmp_path / ".hydra" / "config.yaml") == second


def test_the_configuration_is_written_with_interpolations_and_without_secrets(
    tmp_path: Path,
) -> None:
    cfg = OmegaConf.create({"lr": 0.1, "double": "${lr}", "api_key": "S3CRET"})
    write_config(tmp_path / "run", cfg, ["+api_key=***"], Redactor())
    text = (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    assert OmegaConf.create(text) == OmegaConf.create(
        {"lr": 0.1, "double": "${lr}", "api_key": "***"}
    )
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text() == "- +api_key=***\n"


def test_new_empty_folders_are_removed_up_to_the_current_folder(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "outputs" / "2026-01-31" / "12-00"
    folder.mkdir(parents=True)
    remove_if_empty(folder, time.time() - 60)
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.exists()


def test_a_folder_that_is_not_empty_stays(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "2026-01-31" / "12-00"
    folder.mkdir(parents=True)
    (folder.parent / "11-00").mkdir()
    remove_if_empty(folder, time.time() - 60)
    assert (folder.parent / "11-00").is_dir()
    assert not folder.exists()


def test_a_folder_that_existed_before_the_run_stays(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    os.utime(folder, (0, 0))
    remove_if_empty(folder, time.time() - 60)
    assert folder.is_dir()


WRITTEN = ("run.log", "console.log", "shipper.log", ".hydra", "files", "delivery", JOURNAL)


@pytest.mark.parametrize("name", [*WRITTEN, ".hydra/config.yaml", ".hydra/overrides.yaml"])
def test_a_link_in_the_folder_of_a_run_of_somebody_else_is_refused(run: Path, name: str) -> None:
    path = run / name
    if path.is_dir():
        path.rmdir()
    (run.parent / "victim").mkdir()
    path.symlink_to(run.parent / "victim")
    with pytest.raises(ConfigError, match="is a symbolic link, which nntrain does not follow"):
        check_run_folder(run, run)
    assert not [*(run.parent / "victim").iterdir()]


def test_links_that_are_not_written_are_free(run: Path) -> None:
    (run / "data").symlink_to(run.parent)
    check_run_folder(run, run)
