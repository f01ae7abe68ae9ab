"""Fixtures for tests of sweeps."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.small_app import App, small_app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """The small application."""
    with small_app(tmp_path / "app") as made:
        yield made
