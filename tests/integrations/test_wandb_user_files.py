"""What `wandb init`, `wandb offline` and the like have set is used; W&B itself agrees."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nntrain.config.errors import ConfigError
from nntrain.integrations.wandb import WandbTracker


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home folder, and an environment without W&B's variables."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[default]\n{text}\n")


def used() -> tuple[str | None, str | None, str | None, str | None]:
    resolved = WandbTracker().resolved()
    return resolved.mode, resolved.project, resolved.entity, resolved.base_url


def test_the_folders_settings_come_before_those_of_the_home_folder(home: Path) -> None:
    assert used() == ("online", "nntrain", None, None)
    write(home / ".config/wandb/settings", "mode = disabled\nbase_url = http://here\nentity = me")
    assert used() == ("disabled", "nntrain", "me", "http://here")
    write(Path("wandb/settings"), "mode = offline\nproject = theirs\nentity = team")
    assert used() == ("offline", "theirs", "team", "http://here")


def test_the_environment_and_the_configuration_come_before_the_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(Path("wandb/settings"), "mode = offline\nproject = theirs")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_PROJECT", "environment")
    assert used()[:2] == ("disabled", "environment")
    given = WandbTracker(mode="online", project="given").resolved()
    assert (given.mode, given.project) == ("online", "given")


def test_the_folder_of_the_users_settings_may_be_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "config/settings", "mode = offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    assert used()[0] == "offline"


@pytest.mark.parametrize(("old", "new"), [("dryrun", "offline"), ("run", "online")])
def test_older_names_of_modes_are_known(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    write(Path("wandb/settings"), f"mode = {old}")
    assert used()[0] == new
    monkeypatch.setenv("WANDB_MODE", old)
    assert used()[0] == new


@pytest.mark.parametrize(
    ("value", "mode"), [("true", "disabled"), ("1", "disabled"), ("false", "online")]
)
def test_wandb_disabled_switches_everything_off_unless_a_mode_is_configured(
    monkeypatch: pytest.MonkeyPatch, value: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_DISABLED", value)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert used()[0] == mode
    assert WandbTracker(mode="offline").resolved().mode == "offline"


def test_a_misspelled_mode_is_one_sentence_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rest = "is not a W&B mode that nntrain supports: set it to one of online, offline, disabled."
    write(Path("wandb/settings"), "mode = offlin")
    with pytest.raises(ConfigError) as caught:
        WandbTracker()
    assert str(caught.value) == f"{tmp_path}/wandb/settings: mode=offlin {rest}"
    monkeypatch.setenv("WANDB_MODE", "off")
    with pytest.raises(ConfigError) as caught:
        WandbTracker()
    assert str(caught.value) == f"WANDB_MODE=off {rest}"
    assert WandbTracker(mode="offline").mode == "offline"


@pytest.mark.parametrize("text", ["mode", "[default]\nmode = %(x)s", "\xff"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str) -> None:
    Path("wandb").mkdir()
    Path("wandb/settings").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        WandbTracker()
    message = str(caught.value)
    assert message.startswith(f"W&B's settings {tmp_path}/wandb/settings cannot be read (")
    assert message.endswith("): correct or remove the file.")
    assert "\n" not in message


@pytest.mark.slow
def test_a_git_that_hangs_does_not_delay_the_run(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin" / "git"
    git.write_text("#!/bin/sh\nexec sleep 60\n")
    git.chmod(0o755)
    code = (
        "from nntrain.integrations.wandb import WandbTracker\n"
        "from nntrain.integrations.tracker import RunEnd, RunInfo\n"
        "client = WandbTracker(mode='offline').connect()\n"
        "client.start(RunInfo(uid='0123456789abcdef')); client.finish(RunEnd('completed'))"
    )
    env = {**os.environ, "PATH": f"{git.parent}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=30)
    assert list(Path("wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_wandb_itself_uses_the_same_files(home: Path) -> None:
    write(home / ".config/wandb/settings", "base_url = http://here:1\nentity = me")
    write(Path("wandb/settings"), "mode = offline\nproject = theirs\nentity = team")
    code = (
        "import wandb; s = wandb.setup().settings; print(s.mode, s.project, s.entity, s.base_url)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == used()
