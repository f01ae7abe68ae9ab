"""Real MLflow stores for tests: an SQLite file whose tables are created once."""

import shutil
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns an MLflow database without runs.

    Creating the tables takes seconds, so they are created once and copied.
    """
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """Returns the URI of a new store in the folder of the test.

    The URI is absolute because MLflow caches open stores by URI.
    """
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def only_run(folder: Path) -> tuple[MlflowClient, Run]:
    """Returns a client and the only run in the store of the folder."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    return client, run
