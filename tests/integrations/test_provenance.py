"""Where a run came from, without secrets."""

from pathlib import Path

import pytest
import torch

from nntrain.config.redact import Redactor
from nntrain.integrations.provenance import command_tags, git_tags, version_tags


def test_outside_a_repository_there_are_no_git_tags(tmp_path: Path) -> None:
    assert git_tags(tmp_path) == {}


def test_without_git_there_are_no_git_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_tags(Path(__file__).parent) == {}


def test_versions_are_those_that_run() -> None:
    tags = version_tags()
    assert tags["nntrain.version.torch"] == torch.__version__
    assert "nntrain.version.nosuch" not in tags


def test_the_command_can_be_pasted_and_holds_no_secret() -> None:
    tags = command_tags(["/x/run.py", "lr=0.1", "model.hidden=[32, 64]", "+api_key=S3CRET"], Redactor())
    assert tags["nntrain.command"] == "python -m nntrain.run lr=0.1 'model.hidden=[32, 64]' '+api_key=***'"
