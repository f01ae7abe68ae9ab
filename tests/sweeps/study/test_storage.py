"""The storage of a study: the study file and its lock, databases, and errors."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal._storage import JournalOperation

from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.study.storage import (
    SET_TRIAL_STATE,
    STUDY_FILE,
    FileLock,
    claiming,
    open_storage,
    without_password,
)

LINE = b'{"op_code": 0}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (LINE, LINE),
        (LINE * 3, LINE * 3),
        (LINE + b'{"op_co', LINE),
        (LINE + b"{", LINE),
        (b'{"op_co', b""),
        (LINE + b"x" * 200_000, LINE),
        (LINE * 9000 + b"x" * 70_000, LINE * 9000),
        (LINE + b'{"a": "\\u00e9\xc3', LINE),
    ],
    ids=[
        "empty",
        "one",
        "three",
        "torn",
        "torn at once",
        "torn first",
        "torn over blocks",
        "long",
        "torn in a character",
    ],
)
def test_acquiring_the_lock_cuts_off_a_torn_line(
    before: bytes, after: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "study.jsonl"
    path.write_bytes(before)
    with FileLock(path).held():
        assert path.read_bytes() == after
    assert path.read_bytes() == after


def test_a_study_with_a_torn_last_line_is_read_and_continues(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    path = tmp_path / STUDY_FILE
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(whole.splitlines()[-1][:-7])
    again = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    assert path.read_bytes() == whole
    again.tell(again.ask(), 3.0)
    last = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    assert [trial.value for trial in last.trials] == [1.0, 2.0, 3.0]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_an_unusable_folder_is_an_error() -> None:
    with pytest.raises(
        SweepError,
        match=r"cannot use /dev/null/no as the study's folder \(Not a directory\): choose another",
    ):
        open_storage(None, Path("/dev/null/no"))


GARBAGE = {
    "text": b"garbage",
    "empty": b"",
    "binary": bytes(range(1, 10)) + b"\xff\x00\xfe",
    "half a line": b'{"op_code":8,"worker_id":"a-1","trial_id":1,"user_',
    "a list": b"[1, 2]",
    "a number": b"7",
    "without operation": b"{}",
    "an unknown operation": b'{"op_code":99,"worker_id":"a-1"}',
    "without keys": b'{"op_code":5,"worker_id":"a-1"}',
    "wrong types": b'{"op_code":6,"worker_id":"a-1","trial_id":"one","state":[],"values":7}',
    "a list as trial": b'{"op_code":7,"worker_id":"a-1","trial_id":[],"step":1}',
    "an unknown study": b'{"op_code":2,"worker_id":"a-1","study_id":77,"user_attr":{"a":1}}',
    "deep": b"[" * 100_000,
}


def three_trials(folder: Path) -> list[bytes]:
    """Creates a study with three trials; returns the lines of its file."""
    study = optuna.create_study(study_name="s", storage=open_storage(None, folder))
    for value in (1.0, 2.0, 3.0):
        trial = study.ask()
        trial.set_user_attr("mine", value)
        trial.report(value / 2, 1)
        study.tell(trial, value)
    return (folder / STUDY_FILE).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_damaged_line_is_named_and_ignored(
    garbage: bytes, where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = three_trials(tmp_path)
    at = {"start": 0, "middle": len(lines) // 2, "end": len(lines)}[where]
    path = tmp_path / STUDY_FILE
    path.write_bytes(b"".join([*lines[:at], garbage + b"\n", *lines[at:]]))
    study = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    study.tell(study.ask(), 4.0)
    again = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    for one in (study, again):
        assert [trial.value for trial in one.trials] == [1.0, 2.0, 3.0, 4.0]
        assert [trial.user_attrs for trial in one.trials] == [
            {"mine": 1.0},
            {"mine": 2.0},
            {"mine": 3.0},
            {},
        ]
    warnings = [record.getMessage() for record in caplog.records]
    harmless = garbage.startswith(b'{"op_code":2,')  # an entry of another study is no damage
    assert (
        warnings == []
        if harmless
        else set(warnings) == {f"line {at + 1} of the study file {path} is damaged and is ignored"}
    )


def test_each_line_of_a_study_may_be_damaged_without_mixing_up_its_trials(tmp_path: Path) -> None:
    lines = three_trials(tmp_path)
    n_refused = 0
    for at in range(1, len(lines)):
        line = lines[at]
        cut = line[: len(line) // 2] + b"\xff" + line[len(line) // 2 + 1 :]
        for damaged in (cut.rstrip(b"\n")[:-1] + b"\n", b"#" * (len(line) - 1) + b"\n"):
            (tmp_path / STUDY_FILE).write_bytes(b"".join([*lines[:at], damaged, *lines[at + 1 :]]))
            try:
                study = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
            except SweepError as err:
                assert f"(damaged lines: {at + 1})" in str(err)  # noqa: PT017 - not each is refused
                n_refused += 1
                continue
            for number, trial in enumerate(study.trials):
                assert trial.value in (None, number + 1.0)
                assert trial.user_attrs in ({}, {"mine": number + 1.0})
    assert n_refused == 3  # lines that created a trial, of which nothing is left


def test_the_file_reaches_the_disk_when_a_trial_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path))
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((tmp_path / STUDY_FILE).read_bytes()))
    trial = study.ask()
    for step in range(5):
        trial.report(0.5, step)
    assert synced == []
    study.tell(trial, 0.5)
    assert synced[-1] == (tmp_path / STUDY_FILE).read_bytes()
    assert SET_TRIAL_STATE == JournalOperation.SET_TRIAL_STATE_VALUES


def test_a_line_that_is_torn_while_the_study_is_open_is_cut_before_the_next(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    with open(tmp_path / STUDY_FILE, "ab") as file:
        file.write(b'{"op_code": 4, "wor')
    study.tell(study.ask(), 3.0)
    last = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    assert [trial.value for trial in last.trials] == [3.0]


def test_only_one_thread_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    lock, path = FileLock(tmp_path / "lock"), tmp_path / "n"
    path.write_text("0")

    def count() -> None:
        for _ in range(50):
            with lock.held():
                path.write_text(str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=count, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert path.read_text() == "200"


def is_free(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


HOLD = """
import sys, time
from pathlib import Path
from nntrain.sweeps.study.storage import FileLock
FileLock(Path(sys.argv[1])).acquire()
with open(sys.argv[1], "ab") as file:
    file.write(b"torn")
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_lock_that_a_killed_process_held_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    path.write_bytes(LINE)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not is_free(path)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert is_free(path)
    with FileLock(path).held():
        assert path.read_bytes() == LINE


def test_a_study_is_one_file_in_its_folder_by_default(tmp_path: Path) -> None:
    folder = tmp_path / "multirun" / "study"
    storage = open_storage(None, folder)
    assert isinstance(storage, JournalStorage)
    optuna.create_study(study_name="s", storage=storage)
    assert [path.name for path in folder.iterdir()] == [STUDY_FILE]


@pytest.mark.parametrize("absolute", [True, False])
def test_a_sqlite_database_is_created_with_its_folder(absolute: bool, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "study.db"
    url = f"sqlite:///{path if absolute else path.relative_to(tmp_path)}"
    storage = open_storage(url, tmp_path / "study")
    assert isinstance(storage, RDBStorage)
    study = optuna.create_study(study_name="s", storage=storage)
    study.add_trial(optuna.create_trial(value=0.5))
    assert path.is_file()
    assert (
        optuna.load_study(study_name="s", storage=open_storage(url, tmp_path / "study")).best_value
        == 0.5
    )


PG = "postgresql+psycopg2://user:hush@127.0.0.1:1/db"

UNUSABLE = [
    (
        "study.db",
        "hydra.sweeper.storage=study.db must be null or a URL that begins with one of grpc://, ",
    ),
    (
        "redis://host",
        "hydra.sweeper.storage=redis://host must be null or a URL that begins with one of",
    ),
    (
        "postgres://user:hush@host/db",
        "hydra.sweeper.storage=postgres://user:***@host/db must be null or a URL that begins",
    ),
    (PG, f"hydra.sweeper.storage={without_password(PG)} cannot be reached: "),
    (
        "sqlite:////proc/none/study.db",
        "hydra.sweeper.storage=sqlite:////proc/none/study.db cannot be reached: ",
    ),
    (
        "oracle://user:hush@host/db",
        "hydra.sweeper.storage=oracle://user:***@host/db needs the module ",
    ),
    ("sqlite+none:///a.db", "hydra.sweeper.storage=sqlite+none:///a.db cannot be reached: "),
]


@pytest.mark.parametrize(
    ("url", "message"), UNUSABLE, ids=[url.partition("/")[0] for url, _ in UNUSABLE]
)
def test_an_unusable_storage_is_an_error_of_one_line_without_the_password(
    url: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SweepError) as caught:
        open_storage(url, tmp_path)
    assert str(caught.value).startswith(message)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_is_an_error_that_names_the_module(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"needs the module \w+: install it with pip"):
        open_storage("oracle://user@host/db", tmp_path)


@pytest.mark.slow
def test_a_proxy_that_does_not_respond_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        SweepError, match=r"storage=grpc://127\.0\.0\.1:1 cannot be reached: start the proxy with"
    ):
        open_storage("grpc://127.0.0.1:1", tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user@host/db", "postgresql://***@host/db"),  # may be a token
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("grpc://host:13000", "grpc://host:13000"),
        ("mysql://user:p%40ss@host/db", "mysql://user:***@host/db"),
        ("mysql://user:p@ss/w:rd@host/db", "mysql://user:***@host/db"),
    ],
    ids=range(6),  # pytest puts the id into the environment, whose secrets are hidden
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_only_one_claim_at_a_time_is_possible(tmp_path: Path) -> None:
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with claiming(tmp_path / "study"):
            inside.set()
            leave.wait(30)
            order.append("first")

    def second() -> None:
        with claiming(tmp_path / "study"):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    time.sleep(0.05)  # without a lock, the second thread would enter in this time
    leave.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "second"]
