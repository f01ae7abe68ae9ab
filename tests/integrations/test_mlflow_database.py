"""An MLflow database in an SQLite file is created whole or not at all."""

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from mlflow.tracking import MlflowClient

from nntrain.core.names import RUN_UID
from nntrain.integrations.mlflow import MLflowTracker, database
from nntrain.integrations.mlflow.database import DamagedDatabaseError, prepare_database
from nntrain.integrations.tracker import RunInfo

UID = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SETTLE_S", 0.3)
    monkeypatch.setattr(database, "_POLL_S", 0.1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Databases whose creation by MLflow was cut off: after a step, and in the middle of it."""
    folder = tmp_path_factory.mktemp("stopped")
    first = folder / "first.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{first}", poolclass=sqlalchemy.NullPool)
    InitialBase.metadata.create_all(engine)
    shutil.copy(first, after := folder / "after.db")
    config = utils._get_alembic_config(f"sqlite:///{after}")
    command.upgrade(config, "451aebb31d03")
    shutil.copy(after, within := folder / "within.db")
    command.upgrade(utils._get_alembic_config(f"sqlite:///{within}"), "90e64c465722")
    change(within, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    return {"first": first, "after": after, "within": within}


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def start(path: Path) -> str:
    return MLflowTracker(f"sqlite:///{path}").connect().start(RunInfo(uid=UID)).where


def uids(path: Path) -> list[str]:
    store = MlflowClient(f"sqlite:///{path}")
    experiments = [found.experiment_id for found in store.search_experiments()]
    return [run.data.tags[RUN_UID] for run in store.search_runs(experiments)]


@pytest.mark.parametrize("step", ["first", "after", "within"])
def test_a_database_whose_creation_was_cut_off_is_kept_aside_and_the_run_is_recorded(
    stopped: dict[str, Path], tmp_path: Path, step: str
) -> None:
    shutil.copy(stopped[step], path := tmp_path / "mlflow.db")
    where = start(path)
    (aside,) = tmp_path.glob("mlflow.db.damaged-*")
    assert aside.read_bytes() == stopped[step].read_bytes()
    assert where.endswith(f"\nmoved aside:     {aside}, an incomplete database without runs")
    assert uids(path) == [UID]


def test_a_database_that_another_process_is_creating_is_awaited_and_used(
    stopped: dict[str, Path], store_uri: str, tmp_path: Path
) -> None:
    shutil.copy(stopped["after"], path := tmp_path / "other.db")

    def complete() -> None:
        with (
            closing(sqlite3.connect(store_uri.removeprefix("sqlite:///"))) as whole,
            closing(sqlite3.connect(path)) as target,
        ):
            whole.backup(target)

    timer = threading.Timer(0.15, complete)
    timer.start()
    assert prepare_database(path) is None
    timer.join()
    assert uids(path) == []
    assert list(tmp_path.glob("*damaged*")) == []


@pytest.mark.parametrize("content", ["missing", "no bytes", "only the version's table"])
def test_a_database_without_tables_is_created_whole(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mlflow.db"
    if content == "no bytes":
        path.touch()
    elif content != "missing":
        change(path, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    assert prepare_database(path) is None
    utils._verify_schema(sqlalchemy.create_engine(f"sqlite:///{path}"))
    assert [found.name for found in tmp_path.iterdir()] == ["mlflow.db"]
    assert "moved" not in start(path)


def test_the_rest_of_a_killed_creation_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".mlflow.db.new-abc").mkdir()
    (tmp_path / ".mlflow.db.new-abc" / "mlflow.db").write_bytes(b"half")
    prepare_database(tmp_path / "mlflow.db")
    assert [found.name for found in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_database_that_appears_meanwhile_is_not_replaced(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(Path(store_uri.removeprefix("sqlite:///")))
    path, fill = tmp_path / "other.db", database._fill

    def slowly(new: Path) -> None:
        fill(new)
        shutil.copy(store_uri.removeprefix("sqlite:///"), path)

    monkeypatch.setattr(database, "_fill", slowly)
    assert prepare_database(path) is None
    assert uids(path) == [UID]


@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (
            ["UPDATE alembic_version SET version_num = '451aebb31d03'"],
            "was created by another version of MLflow (its schema is 451aebb31d03): make a copy of "
            "it and run 'mlflow db upgrade sqlite:///{path}', or use the newer MLflow that created "
            "it.",
        ),
        (
            ["DROP TABLE params"],
            "is damaged (MLflow's table params is missing): restore a backup, or move it away with "
            "'mv {path} {path}.damaged', then run python -m nntrain.sync.",
        ),
        (
            ["DELETE FROM alembic_version"],
            "is damaged (MLflow's version is missing): restore a backup, or move it away with "
            "'mv {path} {path}.damaged', then run python -m nntrain.sync.",
        ),
    ],
)
def test_a_database_with_runs_that_cannot_be_used_is_explained_and_not_changed(
    store_uri: str, statements: list[str], told: str
) -> None:
    path = Path(store_uri.removeprefix("sqlite:///"))
    start(path)
    change(path, *statements)
    before = path.read_bytes()
    with pytest.raises(DamagedDatabaseError) as caught:
        start(path)
    assert str(caught.value) == f"the MLflow database {path} {told.format(path=path)}"
    assert path.read_bytes() == before
    assert list(path.parent.glob("*damaged*")) == []


def test_the_tables_of_another_program_stay_in_the_database(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    change(path, "CREATE TABLE mine (x)", "INSERT INTO mine VALUES (1)")
    start(path)
    assert uids(path) == [UID]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(1,)]


CREATE = """
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.tracker import RunInfo
client = MLflowTracker("sqlite:///mlflow.db").connect()
print("connected", flush=True)
client.start(RunInfo(uid="f" * 16))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_creates_the_database_does_no_harm(
    tmp_path: Path,
) -> None:
    after_s = [0.3, 0.8, 1.2, 1.5, 1.8, 2.2]
    for i, delay in enumerate(after_s):
        (folder := tmp_path / str(i)).mkdir()
        words = [sys.executable, "-c", CREATE]
        with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as creator:
            assert creator.stdout is not None
            assert creator.stdout.readline() == "connected\n"
            time.sleep(delay)
            creator.kill()
    for i in range(len(after_s)):
        start(path := tmp_path / str(i) / "mlflow.db")
        assert UID in uids(path)
        assert {found.name for found in path.parent.iterdir()} == {"mlflow.db"}
