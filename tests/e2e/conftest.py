"""Fixtures: a run with the default configuration that several tests read, and a log folder."""

from pathlib import Path

import pytest

from tests.common.cli import nntrain_run


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a run with the default configuration."""
    folder = tmp_path_factory.mktemp("default")
    done = nntrain_run(cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the output of processes."""
    return tmp_path_factory.mktemp("logs")
