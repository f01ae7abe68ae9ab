"""What is written to the folder of a run, and the removal of empty folders."""

import os
import time
from pathlib import Path

from omegaconf import OmegaConf

from nntrain.app.run_folder import remove_if_empty, write_config
from nntrain.config.redact import Redactor


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
