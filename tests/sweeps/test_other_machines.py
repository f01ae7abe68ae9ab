"""A sweep ends the trials of other machines that have died, with each storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from nntrain.sweeps.study import heartbeat as heartbeats
from nntrain.sweeps.study.heartbeat import HEARTBEAT
from nntrain.sweeps.study.opening import open_study
from nntrain.sweeps.study.trials import RETRY_OF
from nntrain.sweeps.sweep import Sweep
from tests.common.servers import OptunaProxy
from tests.sweeps.small_app import App
from tests.sweeps.study.test_heartbeat import ELSEWHERE, running


@pytest.fixture(params=["null", "sqlite", "grpc"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    match request.param:
        case "grpc":
            with OptunaProxy(tmp_path / "proxy") as proxy:
                yield proxy.uri
        case "sqlite":
            yield f"sqlite:///{tmp_path / 'study.db'}"
        case null:
            yield null


@pytest.fixture
def sweep(app: App, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep of three trials, whose heartbeats are fast."""
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(heartbeats, "GRACE_S", 2.0)
    monkeypatch.chdir(tmp_path)
    return app.sweep(
        "x=interval(0,1)", "hydra.sweeper.n_trials=3", f"hydra.sweeper.storage={storage}"
    )


def test_the_trial_of_a_dead_machine_runs_again(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    running(*open_study(sweep.plan), ELSEWHERE)
    assert sweep.run() == 0
    trials = open_study(sweep.plan)[0].get_trials()
    found = [(trial.state, trial.user_attrs.get(RETRY_OF)) for trial in trials]
    done = (TrialState.COMPLETE, None)
    assert found == [(TrialState.FAIL, None), done, done, (TrialState.COMPLETE, 0)]
    assert "waiting for a heartbeat of trial 0 on another machine" in capsys.readouterr().out


def test_the_trial_of_a_living_machine_keeps_running(sweep: Sweep) -> None:
    study, storage = open_study(sweep.plan)
    trial_id = running(study, storage, ELSEWHERE)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.2):
            storage.set_trial_system_attr(trial_id, HEARTBEAT, time.monotonic_ns())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert sweep.run() == 0
    finally:
        over.set()
        thread.join()
    states = [trial.state for trial in open_study(sweep.plan)[0].get_trials()]
    assert states == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.COMPLETE]
