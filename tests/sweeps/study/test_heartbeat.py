"""Trials whose heartbeats have stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import RDBStorage, get_storage
from optuna.trial import TrialState, create_trial

from nntrain.sweeps.study.heartbeat import fail_stale
from nntrain.sweeps.study.storage import open_storage
from nntrain.sweeps.study.trials import OWNER, SweepStudy, requeue, this_process
from tests.sweeps.study.test_trials import dead


@pytest.mark.parametrize(
    ("owner", "states"),
    [
        (this_process(), [TrialState.RUNNING]),
        (dead(), [TrialState.FAIL, TrialState.WAITING]),
        (
            '{"host": "another", "pid": 1, "started": 0.0}',
            [TrialState.FAIL, TrialState.WAITING],
        ),
    ],
    ids=["suspended process of this machine", "dead process", "another machine"],
)
def test_a_stale_trial_is_queued_again_unless_its_process_lives_here(
    owner: str, states: list[TrialState], tmp_path: Path
) -> None:
    storage = open_storage("sqlite:///study.db", tmp_path, requeue)
    assert isinstance(storage, RDBStorage)
    study_id = storage.create_new_study([], "s")
    trial_id = storage.create_new_trial(
        study_id, create_trial(state=TrialState.RUNNING, user_attrs={OWNER: owner})
    )
    storage.record_heartbeat(trial_id)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-2 minutes')"
        )
    study = SweepStudy("s", get_storage(storage))
    study.folder = tmp_path
    fail_stale(study)
    assert [trial.state for trial in study.get_trials()] == states
