"""Trials whose heartbeats have stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from nntrain.sweeps.study import heartbeat as module
from nntrain.sweeps.study.heartbeat import GRACE_S, HEARTBEAT, HEARTBEAT_S, Watch, heartbeat
from nntrain.sweeps.study.trials import MESSAGE, OUTCOME, OWNER, SweepStudy, claim, this_process
from tests.sweeps.study.test_trials import dead, opened

ELSEWHERE = json.dumps({"host": "node7", "pid": 1, "started": 0.0})
URLS = pytest.mark.parametrize("url", [None, "sqlite:///study.db"])
LOOKS = int(GRACE_S / HEARTBEAT_S) + 1


class Clock:
    """A clock that a test moves; stands for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def running(study: SweepStudy, storage: BaseStorage, owner: str) -> int:
    """Adds a running trial and returns its ID."""
    study_id = storage.get_study_id_from_name(study.study_name)
    template = create_trial(state=TrialState.RUNNING, user_attrs={OWNER: owner})
    return storage.create_new_trial(study_id, template)


def look(watch: Watch, study: SweepStudy, clock: Clock) -> None:
    """Looks once, after the seconds between two heartbeats."""
    clock.now += HEARTBEAT_S
    watch.look(study.get_trials())


def states(study: SweepStudy) -> list[TrialState]:
    return [trial.state for trial in study.get_trials()]


@URLS
def test_a_silent_trial_of_another_machine_is_queued_again_after_the_grace_period(
    url: str | None, tmp_path: Path, clock: Clock
) -> None:
    study, storage = opened(tmp_path / "s", url)
    running(study, storage, ELSEWHERE)
    watch = Watch(study, storage)
    for _ in range(LOOKS - 1):
        look(watch, study, clock)
        watch.look(study.get_trials())  # too early to count as another look
    assert states(study) == [TrialState.RUNNING]
    assert [trial.number for trial in watch.undecided(study.get_trials())] == [0]
    look(watch, study, clock)
    assert states(study) == [TrialState.FAIL, TrialState.WAITING]
    attrs = study.get_trials()[0].user_attrs
    assert (attrs[OUTCOME], attrs[MESSAGE]) == ("killed", "no heartbeat from node7 for 60 s")
    assert watch.undecided(study.get_trials()) == []


@URLS
def test_a_trial_of_another_machine_with_heartbeats_keeps_running(
    url: str | None, tmp_path: Path, clock: Clock
) -> None:
    study, storage = opened(tmp_path / "s", url)
    trial_id = running(study, storage, ELSEWHERE)
    watch = Watch(study, storage)
    assert watch.undecided(study.get_trials())
    look(watch, study, clock)
    for beat in range(2 * LOOKS):
        storage.set_trial_system_attr(trial_id, HEARTBEAT, beat + 1)
        look(watch, study, clock)
        assert watch.undecided(study.get_trials()) == []
    for _ in range(LOOKS - 1):
        look(watch, study, clock)
    assert states(study) == [TrialState.RUNNING]
    look(watch, study, clock)
    assert states(study) == [TrialState.FAIL, TrialState.WAITING]


@pytest.mark.parametrize("owner", [this_process(), dead()], ids=["suspended", "dead"])
def test_the_watch_leaves_the_trials_of_this_machine_alone(
    owner: str, tmp_path: Path, clock: Clock
) -> None:
    study, storage = opened(tmp_path / "s")
    running(study, storage, owner)
    watch = Watch(study, storage)
    for _ in range(2 * LOOKS):
        look(watch, study, clock)
    assert states(study) == [TrialState.RUNNING]
    assert watch.undecided(study.get_trials()) == []


@URLS
def test_a_running_trial_sends_heartbeats_until_it_ends(
    url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.02)
    study, storage = opened(tmp_path / "s", url)
    trial = claim(study, storage, tmp_path / "s", 1)
    assert trial is not None
    with heartbeat(storage, study, trial):
        deadline = time.monotonic() + 30
        while study.get_trials()[0].system_attrs.get(HEARTBEAT, 0) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    last = study.get_trials()[0].system_attrs[HEARTBEAT]
    time.sleep(0.1)
    assert study.get_trials()[0].system_attrs[HEARTBEAT] == last


@pytest.mark.parametrize("deletes", [True, False], ids=["deleted study", "ended trial"])
def test_heartbeats_stop_when_another_process_ends_the_trial_or_deletes_the_study(
    deletes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.02)
    study, storage = opened(tmp_path / "s", "sqlite:///study.db")
    trial = claim(study, storage, tmp_path / "s", 1)
    assert trial is not None
    with heartbeat(storage, study, trial):
        if deletes:
            optuna.delete_study(study_name=study.study_name, storage=storage)
        else:
            study.tell(trial, state=TrialState.FAIL)
        time.sleep(0.2)  # an exception in the thread would fail the test
