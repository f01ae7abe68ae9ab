"""Workers can run as jobs of other Hydra launchers, and are launched again if necessary."""

import importlib.util
import signal
from pathlib import Path

import pytest

from nntrain.sweeps.study.trials import RETRY_OF, owner_of
from tests.sweeps.command_line import SweepCommand, assert_all_done, causes, states

pytestmark = pytest.mark.slow

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],
}

PACKAGES = {
    "joblib": "hydra_joblib_launcher",
    "submitit": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
}


@pytest.fixture(params=LAUNCHERS)
def launcher(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    if importlib.util.find_spec(f"hydra_plugins.{PACKAGES[request.param]}") is None:
        pytest.skip(f"{PACKAGES[request.param]} is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes its files to this folder
    return LAUNCHERS[request.param]


def sweep(tmp_path: Path, n_trials: int, *overrides: str) -> SweepCommand:
    options = [
        f"hydra.sweeper.n_trials={n_trials}",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.max_failure_rate=1",
    ]
    return SweepCommand(tmp_path / "app", *options, *overrides)


def test_the_launcher_runs_the_workers(launcher: list[str], tmp_path: Path) -> None:
    command = sweep(tmp_path, 8, *launcher, "hydra.sweeper.trial_timeout_s=4")
    done = command.run(["segfault", "hang"], sleep_s=0.2)
    assert done.returncode == 0, done.stderr
    assert causes(command.trials()) == {
        0: ("FAIL", "killed", "its process crashed: SIGSEGV"),
        1: ("FAIL", "timeout", "it ran longer than trial_timeout_s=4"),
    }
    assert states(command.trials()) == {"FAIL": 2, "COMPLETE": 6}
    assert "trial 7 completed" in done.stderr
    assert {path.name for path in (command.study_folder / "workers").iterdir()} == {
        "0",
        "1",
        "0.log",
        "1.log",
    }
    command.assert_no_process_is_left()


def test_a_launch_that_dies_is_repeated(tmp_path: Path) -> None:
    command = sweep(tmp_path, 12, *LAUNCHERS["joblib"])
    with command.started(sleep_s=0.3) as process:
        command.wait_for(2, process)
        worker = command.workers()[0]
        worker.parent().kill()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "nntrain: hydra.launcher: JoblibLauncher failed: TerminatedWorkerError" in err
    assert_all_done(command, 12)
    trials = command.trials()
    assert len({owner_of(trial)["launch"] for trial in trials}) == 2
    for trial in trials:
        if (before := trial.user_attrs.get(RETRY_OF)) is not None:
            assert trial.params == trials[before].params


def test_a_signal_stops_the_workers_on_all_machines(tmp_path: Path) -> None:
    command = sweep(tmp_path, 4, *LAUNCHERS["submitit"])
    with command.started(sleep_s=60) as process:
        command.wait_until_started([0, 1], process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert states(command.trials()) == {"FAIL": 2, "WAITING": 2}
    command.assert_no_process_is_left()


def test_the_sweep_stops_after_several_launches_without_a_finished_trial(tmp_path: Path) -> None:
    command = sweep(
        tmp_path, 4, *LAUNCHERS["submitit"], "hydra.launcher.submitit_folder=/dev/null/no"
    )
    done = command.run()
    assert done.returncode == 1
    assert done.stderr.count("nntrain: hydra.launcher: LocalLauncher failed: ") == 2
    assert "Traceback" not in done.stderr
    assert not (command.study_folder / "0").exists()
