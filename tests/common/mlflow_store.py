"""Real MLflow stores for tests: an SQLite file whose tables are made once."""

import shutil
from pathlib import Path

import pytest

from nntrain.integrations.mlflow import MLflowTracker


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; making its tables takes seconds, so it is made once and copied."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MLflowTracker(f"sqlite:///{path}").open()
    return path


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """The URI of a fresh store in the test's own folder."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return "sqlite:///mlflow.db"
