"""The default run, trained once through the command line for all tests that look at it."""

from pathlib import Path

import pytest

from tests.common.cli import nntrain_run


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the default was trained, and what it printed."""
    folder = tmp_path_factory.mktemp("default")
    done = nntrain_run(cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what a process prints."""
    return tmp_path_factory.mktemp("logs")
