"""The origin of a run is recorded without secrets."""

import os
import pwd
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from nntrain.config.redact import Redactor
from nntrain.integrations.capture.provenance import (
    GitTags,
    command_tags,
    process_info,
    version_tags,
)
from tests.common.servers import wait_until


def test_outside_a_repository_there_are_no_git_tags(tmp_path: Path) -> None:
    assert GitTags(tmp_path)() == {}


def test_without_git_there_are_no_git_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert GitTags(Path(__file__).parent)() == {}


def test_git_that_hangs_is_ended_after_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\necho $$ > {pid}\nsleep 60\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.monotonic()
    tags = GitTags(tmp_path, timeout_s=0.5)
    assert time.monotonic() - began < 0.3  # asked in the background
    assert tags() == {}
    assert time.monotonic() - began < 2
    wait_until(lambda: not psutil.pid_exists(int(pid.read_text())), "the end of git")


def test_versions_are_those_of_the_imported_packages() -> None:
    tags = version_tags()
    assert tags["nntrain.version.torch"] == torch.__version__
    assert "nntrain.version.nosuch" not in tags


def test_the_command_can_be_pasted_and_holds_no_secret() -> None:
    tags = command_tags(
        ["/x/run.py", "lr=0.1", "model.hidden=[32, 64]", "+api_key=S3CRET"], Redactor()
    )
    assert (
        tags["nntrain.command"]
        == "python -m nntrain.run lr=0.1 'model.hidden=[32, 64]' '+api_key=***'"
    )


def test_the_command_of_a_script_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["--api-key", "S3CRET", "--password=S3CRET", "--lr", "0.1", "--use-token", "--fast"]
    monkeypatch.setattr(sys, "argv", ["train.py", *args])
    tags = command_tags(sys.argv, Redactor(), ["train.py"])
    safe = ["--api-key", "***", "--password=***", "--lr", "0.1", "--use-token", "--fast"]
    assert shlex.split(tags["nntrain.command"]) == ["python", "train.py", *safe]
    assert tags["mlflow.source.name"] == "train.py"
    assert process_info(Redactor()).args == safe


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (["train.py"], "['train.py']"),
        (["-m", "train"], "['-m', 'train']"),
        (["-m", "package"], "['-m', 'package']"),
    ],
)
def test_the_running_program_is_the_argument_of_python(
    tmp_path: Path, call: list[str], expected: str
) -> None:
    text = "from nntrain.integrations.capture.provenance import running_program as p\nprint(p())"
    (tmp_path / "train.py").write_text(text)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(text)
    done = subprocess.run([sys.executable, *call], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


@pytest.fixture
def no_user_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_user_variables")
def test_the_user_is_known_without_environment_variables() -> None:
    assert command_tags(["run.py"], Redactor())["mlflow.user"] == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.usefixtures("no_user_variables")
def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    assert command_tags(["run.py"], Redactor())["mlflow.user"] == "unknown"
