"""Trial bookkeeping: owners, claims, the number of trials, and recovery from crashes."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nntrain.sweeps.study.opening import open_study
from nntrain.sweeps.study.trials import (
    DUPLICATE,
    KILLED,
    MESSAGE,
    OUTCOME,
    OWNER,
    RETRY_OF,
    UNOWNED_S,
    WARM_START,
    SweepStudy,
    claim,
    counted,
    fail,
    folder_of,
    give_up_or_retry,
    has_room,
    is_lost,
    owner_of,
    repair,
    requeue,
    resume_folder,
    this_process,
)
from tests.common.repeats import full
from tests.sweeps.small_app import make_plan

DONE, FAILED, PRUNED, RUNNING, WAITING = (
    TrialState.COMPLETE,
    TrialState.FAIL,
    TrialState.PRUNED,
    TrialState.RUNNING,
    TrialState.WAITING,
)
STORAGES = pytest.mark.parametrize("url", [None, "sqlite:///study.db"], ids=["file", "sqlite"])
ELSEWHERE = json.dumps({"host": "another-machine", "pid": 1, "started": 0.0})


def dead() -> str:
    """Returns an `OWNER` value for a process that has died."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return json.dumps({"host": socket.gethostname(), "pid": process.pid, "started": 0.0})


def opened(folder: Path, url: str | None = None) -> tuple[SweepStudy, BaseStorage]:
    return open_study(make_plan(folder, storage=url))


def trial_of(
    number: int, state: TrialState = DONE, attrs: Mapping[str, Any] | None = None
) -> FrozenTrial:
    """Returns a `FrozenTrial` with the given number, state, and attributes."""
    trial = create_trial(
        state=state, value=1.0 if state is DONE else None, user_attrs=dict(attrs or {})
    )
    trial.number = number
    return trial


def add(study: SweepStudy, state: TrialState, **attrs: Any) -> FrozenTrial:
    """Adds a trial to a study."""
    study.add_trial(
        create_trial(state=state, value=1.0 if state is DONE else None, user_attrs=attrs)
    )
    return study.get_trials()[-1]


# --- claiming


def claim_all(folder: Path, url: str | None, n_trials: int, numbers: list[int]) -> None:
    study, storage = opened(folder, url)
    while (trial := claim(study, storage, folder, n_trials)) is not None:
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
        numbers.append(trial.number)


@STORAGES
@pytest.mark.parametrize("n_waiting", [0, 3])
def test_threads_claim_each_trial_once_and_no_more_than_n_trials(
    url: str | None, n_waiting: int, tmp_path: Path
) -> None:
    study, _ = opened(tmp_path / "s", url)
    for i in range(n_waiting):
        study.enqueue_trial({"x": i / 10})
    numbers: list[int] = []
    threads = [
        threading.Thread(target=claim_all, args=(tmp_path / "s", url, 12, numbers))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(numbers) == list(range(12))
    assert [trial.state for trial in study.trials] == [DONE] * 12
    assert [trial.params["x"] for trial in study.trials[:n_waiting]] == [
        i / 10 for i in range(n_waiting)
    ]


def in_processes(target: Callable[..., None], n: int, *args: Any) -> None:
    """Runs a function in several processes simultaneously."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=args) for _ in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * n


def claim_and_write(folder: Path, n_trials: int) -> None:
    numbers: list[int] = []
    claim_all(folder, None, n_trials, numbers)
    (folder / f"claimed-{os.getpid()}").write_text(json.dumps(numbers))


@pytest.mark.slow
def test_processes_claim_each_trial_once_and_no_more_than_n_trials(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    study, _ = opened(folder)
    for _ in range(4):
        study.enqueue_trial({"x": 0.25})
    n_process, n_trial = full((6, 90), (2, 30))
    in_processes(claim_and_write, n_process, folder, n_trial)
    claimed = [json.loads(path.read_text()) for path in folder.glob("claimed-*")]
    assert len(claimed) == n_process
    assert sorted(number for numbers in claimed for number in numbers) == list(range(n_trial))
    assert [trial.state for trial in study.trials] == [DONE] * n_trial


def test_a_claimed_trial_is_owned_by_this_process(tmp_path: Path) -> None:
    study, storage = opened(tmp_path / "s")
    study.enqueue_trial({"x": 0.5})
    assert [claim(study, storage, tmp_path / "s", 2) is not None for _ in range(3)] == [
        True,
        True,
        False,
    ]
    for trial in study.trials:
        assert trial.state is RUNNING
        assert dict(owner_of(trial)) == json.loads(this_process())
        assert not is_lost(trial)
    assert owner_of(study.trials[0])["pid"] == os.getpid()


def test_a_waiting_trial_is_claimed_even_if_there_are_enough(tmp_path: Path) -> None:
    study, storage = opened(tmp_path / "s")
    for _ in range(3):
        add(study, DONE)
    study.enqueue_trial({"x": 0.5})
    trial = claim(study, storage, tmp_path / "s", 2)
    assert trial is not None
    assert trial.number == 3
    assert claim(study, storage, tmp_path / "s", 2) is None


def test_nothing_is_claimed_when_the_sampler_has_tried_everything(tmp_path: Path) -> None:
    study, storage = opened(tmp_path / "s")
    study.stop()
    assert claim(study, storage, tmp_path / "s", 5) is None
    study.enqueue_trial({"x": 0.5})
    assert claim(study, storage, tmp_path / "s", 5) is not None


# --- the number of trials


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([], []),
        (
            [
                trial_of(0),
                trial_of(1, PRUNED),
                trial_of(2, FAILED),
                trial_of(3, RUNNING),
                trial_of(4, WAITING),
            ],
            [0, 1, 2, 3, 4],
        ),
        ([trial_of(0, FAILED), trial_of(1, attrs={RETRY_OF: 0})], [1]),
        (
            [
                trial_of(0, FAILED),
                trial_of(1, FAILED, {RETRY_OF: 0}),
                trial_of(2, attrs={RETRY_OF: 1}),
            ],
            [2],
        ),
        ([trial_of(0, attrs={WARM_START: 0}), trial_of(1)], [1]),
        ([trial_of(0), trial_of(1, FAILED, {OUTCOME: DUPLICATE}), trial_of(2)], [0, 2]),
    ],
    ids=["none", "every state", "run again", "run again twice", "warm start", "duplicate"],
)
def test_a_configuration_counts_once(trials: list[FrozenTrial], expected: list[int]) -> None:
    assert [trial.number for trial in counted(iter(trials))] == expected


@pytest.mark.parametrize(
    ("trials", "n_trials", "expected"),
    [
        ([], 1, True),
        ([trial_of(0)], 1, False),
        ([trial_of(0, RUNNING)], 1, False),
        ([trial_of(0)], 2, True),
        ([trial_of(0), trial_of(1, WAITING)], 1, True),
        ([trial_of(0, FAILED), trial_of(1, WAITING, {RETRY_OF: 0})], 1, True),
        ([trial_of(0, FAILED), trial_of(1, attrs={RETRY_OF: 0})], 1, False),
    ],
)
def test_there_is_room_while_trials_are_missing_or_waiting(
    trials: list[FrozenTrial], n_trials: int, expected: bool
) -> None:
    assert has_room(trials, n_trials) is expected


# --- lost trials


@pytest.mark.parametrize(
    ("owner", "age_s", "expected"),
    [
        (this_process(), 1e6, False),
        # another process has the same process ID now
        (json.dumps(json.loads(this_process()) | {"started": 1.0}), 0, True),
        (ELSEWHERE, 1e6, False),
        (None, UNOWNED_S / 2, False),
        (None, UNOWNED_S * 2, True),
    ],
    ids=[
        "this process",
        "its id reused",
        "another machine",
        "without an owner for a moment",
        "without an owner for long",
    ],
)
def test_a_trial_is_lost_when_its_process_is_known_to_be_dead(
    owner: str | None, age_s: float, expected: bool
) -> None:
    trial = trial_of(0, RUNNING, ({} if owner is None else {OWNER: owner}))
    trial.datetime_start = datetime.now() - timedelta(seconds=age_s)
    assert is_lost(trial) is expected


def test_a_trial_of_a_process_that_has_ended_is_lost() -> None:
    assert is_lost(trial_of(0, RUNNING, {OWNER: dead()}))


def test_a_trial_of_a_zombie_process_is_lost() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    import psutil

    known = psutil.Process(process.pid)
    owner = json.dumps(
        {"host": socket.gethostname(), "pid": process.pid, "started": known.create_time()}
    )
    process.stdout.read()  # wait until the process has ended
    while known.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.005)
    assert is_lost(trial_of(0, RUNNING, {OWNER: owner}))
    process.wait()
    process.stdout.close()


# --- recovery from crashes


@STORAGES
def test_a_lost_trial_is_ended_and_queued_again(url: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    study, storage = opened(folder, url)
    trial = claim(study, storage, folder, 1)
    assert trial is not None
    x = trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    assert repair(study, storage) == []
    trial.set_user_attr(OWNER, dead())
    assert [one.number for one in repair(study, storage)] == [0]
    lost, again = study.trials
    assert (lost.state, lost.user_attrs[OUTCOME], lost.intermediate_values) == (
        FAILED,
        KILLED,
        {1: 0.5},
    )
    assert lost.user_attrs[MESSAGE] == "its process died without a message"
    assert (again.state, again.user_attrs) == (WAITING, {RETRY_OF: 0})
    retried = claim(study, storage, folder, 1)
    assert retried is not None
    assert retried.suggest_float("x", 0, 1) == x
    assert claim(study, storage, folder, 1) is None
    assert repair(study, storage) == []


def test_repair_does_not_change_trials_that_run_elsewhere_or_have_ended(tmp_path: Path) -> None:
    study, storage = opened(tmp_path / "s")
    add(study, RUNNING, **{OWNER: ELSEWHERE})
    add(study, RUNNING, **{OWNER: this_process()})
    add(study, DONE, **{OWNER: dead()})
    study.enqueue_trial({})
    assert repair(study, storage) == []
    assert [trial.state for trial in study.trials] == [RUNNING, RUNNING, DONE, WAITING]


def test_a_trial_is_queued_again_only_once(tmp_path: Path) -> None:
    study, _ = opened(tmp_path / "s")
    trial = add(study, FAILED)
    for _ in range(3):
        requeue(study, trial)
    assert [(one.state, one.user_attrs.get(RETRY_OF)) for one in study.trials] == [
        (FAILED, None),
        (WAITING, 0),
    ]


def test_a_second_crash_is_final(tmp_path: Path) -> None:
    study, storage = opened(tmp_path / "s")
    give_up_or_retry(study, storage, add(study, RUNNING), KILLED, "first")
    assert [trial.state for trial in study.trials] == [FAILED, WAITING]
    retry = claim(study, storage, tmp_path / "s", 1)
    assert retry is not None
    give_up_or_retry(study, storage, study.trials[1], KILLED, "second")
    assert [trial.state for trial in study.trials] == [FAILED, FAILED]
    assert study.trials[1].user_attrs[MESSAGE] == "second"
    assert claim(study, storage, tmp_path / "s", 1) is None


def test_a_crash_after_an_interruption_is_not_a_second_crash(tmp_path: Path) -> None:
    study, storage = opened(tmp_path / "s")
    add(study, FAILED, **{OUTCOME: "interrupted"})
    retry = add(study, RUNNING, **{RETRY_OF: 0})
    give_up_or_retry(study, storage, retry, KILLED, "died")
    assert [trial.state for trial in study.trials] == [FAILED, FAILED, WAITING]
    assert study.trials[2].user_attrs == {RETRY_OF: 1}


def test_a_trial_that_has_since_ended_is_not_changed(tmp_path: Path) -> None:
    study, storage = opened(tmp_path / "s")
    done = add(study, DONE, **{OUTCOME: "completed"})
    fail(study, storage, done, KILLED, "late")
    assert study.trials[0].state is DONE
    assert study.trials[0].user_attrs == {OUTCOME: "completed"}


def test_a_second_try_resumes_from_the_folder_of_the_first(tmp_path: Path) -> None:
    assert folder_of(tmp_path, 3) == tmp_path / "3"
    assert resume_folder(tmp_path, trial_of(5)) is None
    assert resume_folder(tmp_path, trial_of(5, attrs={RETRY_OF: 3})) == tmp_path / "3"


class Slow(SweepStudy):
    """A study that enqueues slowly, so that other commands would interfere without a lock."""

    def enqueue_trial(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.2)
        super().enqueue_trial(*args, **kwargs)


def test_commands_that_repair_simultaneously_queue_a_lost_trial_only_once(tmp_path: Path) -> None:
    study, _ = opened(tmp_path / "s")
    add(study, RUNNING, **{OWNER: dead()})

    def repair_it() -> None:
        _, storage = opened(tmp_path / "s")
        slow = Slow(study.study_name, storage)
        slow.folder = tmp_path / "s"
        repair(slow, storage)

    threads = [threading.Thread(target=repair_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(trial.state, trial.user_attrs.get(RETRY_OF)) for trial in study.trials] == [
        (FAILED, None),
        (WAITING, 0),
    ]


def test_a_study_knows_the_folder_of_its_lock(tmp_path: Path) -> None:
    assert opened(tmp_path / "s")[0].folder == tmp_path / "s"
