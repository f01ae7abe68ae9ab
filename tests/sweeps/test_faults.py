"""If a trial, worker, sweep, or storage fails, other trials complete and all processes exit."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest

from nntrain.sweeps.study.trials import RETRY_OF, counted, is_of
from tests.common.servers import POSTGRES_BIN, OptunaProxy, Postgresql
from tests.sweeps.command_line import SweepCommand, assert_all_done, causes, states

pytestmark = pytest.mark.slow

N = 40

CAUSES = {
    "segfault": ("FAIL", "killed", "its process crashed: SIGSEGV"),
    "sigkill": (
        "FAIL",
        "killed",
        "its process was killed by SIGKILL; the system may have run out of memory",
    ),
    "exit": ("FAIL", "error", "the job called sys.exit(7)"),
    "out_of_memory": ("FAIL", "out_of_memory", "MemoryError: no room for 1 TiB"),
    "fail": ("FAIL", "error", "ValueError: the learning rate is the wrong color"),
    "hang": ("FAIL", "timeout", "it ran longer than trial_timeout_s=4"),
}


def sweep(tmp_path: Path, *overrides: str, storage: str | None = None) -> SweepCommand:
    """Returns a sweep of forty short trials with two workers; `overrides` change the settings."""
    options = [f"hydra.sweeper.n_trials={N}", "hydra.sweeper.n_jobs=2", *overrides]
    return SweepCommand(tmp_path / "app", *options, storage=storage)


# --- trials


def test_each_way_to_die_ends_only_its_trial_and_is_named(tmp_path: Path) -> None:
    faults = [*CAUSES, "delete"]
    limits = [
        "hydra.sweeper.n_trials=14",
        "hydra.sweeper.max_failure_rate=1",
        "hydra.sweeper.trial_timeout_s=4",
    ]
    command = sweep(tmp_path, *limits)
    done = command.run(faults)
    assert done.returncode == 0, done.stderr
    trials = command.trials()
    found = causes(trials)
    assert found == dict(enumerate(CAUSES.values()))
    for number, (_, outcome, message) in found.items():
        assert f"trial {number} failed ({outcome}): {message}" in done.stderr
    again = [trial for trial in trials if RETRY_OF in trial.user_attrs]
    # only this trial is retried, because the system may have sent the signal
    assert [trial.user_attrs[RETRY_OF] for trial in again] == [faults.index("sigkill")]
    assert len(counted(trials)) == 14
    command.assert_no_process_is_left()


def test_in_the_foreground_a_failure_ends_only_its_trial(tmp_path: Path) -> None:
    faults = ["exit", "out_of_memory", "fail", "delete"]
    limits = [
        "hydra.sweeper.n_trials=6",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.max_failure_rate=1",
    ]
    command = sweep(tmp_path, *limits)
    done = command.run(faults)
    assert done.returncode == 0, done.stderr
    assert causes(command.trials()) == {
        number: CAUSES[fault] for number, fault in enumerate(faults) if fault in CAUSES
    }
    assert states(command.trials()) == {"FAIL": 3, "COMPLETE": 3}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_trials_that_time_out_one_after_another_do_not_end_the_sweep(
    n_jobs: int, tmp_path: Path
) -> None:
    command = sweep(
        tmp_path,
        "hydra.sweeper.n_trials=7",
        f"hydra.sweeper.n_jobs={n_jobs}",
        "hydra.sweeper.max_failure_rate=1",
        "hydra.sweeper.trial_timeout_s=1",
    )
    done = command.run(["hang"] * (n_jobs + 2))
    assert done.returncode == 0, done.stderr
    assert states(command.trials()) == {"FAIL": n_jobs + 2, "COMPLETE": 5 - n_jobs}


# --- workers and the sweep itself


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_study_that_is_deleted_while_it_runs_ends_the_sweep_with_one_sentence(
    n_jobs: int, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    command = sweep(tmp_path, f"hydra.sweeper.n_jobs={n_jobs}", storage=url)
    with command.started(sleep_s=0.05) as process:
        command.wait_for(3, process)
        (name,) = optuna.get_all_study_names(url)
        optuna.delete_study(study_name=name, storage=url)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(
        f"nntrain: The study {name} was deleted from its storage while the sweep was running: "
    )
    assert "Traceback" not in err


def test_a_killed_worker_is_replaced_and_its_trial_run_again(tmp_path: Path) -> None:
    command = sweep(tmp_path, storage=f"sqlite:///{tmp_path / 'study.db'}")
    with command.started(sleep_s=0.05) as process:
        command.wait_for(10, process)
        command.workers()[0].kill()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_all_done(command, N)
    first = {trial.number: trial for trial in command.trials()}
    for trial in command.trials():
        if (before := trial.user_attrs.get(RETRY_OF)) is not None:
            # the worker may have died before all parameters were suggested
            assert trial.params.items() >= first[before].params.items()


def test_the_same_command_finishes_a_killed_sweep(tmp_path: Path) -> None:
    command = sweep(tmp_path)
    with command.started(sleep_s=0.05) as process:
        command.wait_for(10, process)
        process.kill()
        command.assert_no_process_is_left()
    assert states(counted(command.trials()))["COMPLETE"] < N
    done = command.run()
    assert done.returncode == 0, done.stderr
    assert_all_done(command, N)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[OptunaProxy]:
    with OptunaProxy(tmp_path / "proxy") as made:
        yield made


@pytest.fixture
def server() -> Iterator[Postgresql]:
    if POSTGRES_BIN is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL is not installed")
    with Postgresql() as made:
        yield made


def test_a_sweep_waits_for_a_storage_that_restarts(server: Postgresql, tmp_path: Path) -> None:
    command = sweep(tmp_path, storage=server.uri)
    with command.started(sleep_s=0.05) as process:
        command.wait_for(10, process)
        server.kill()
        time.sleep(1)
        server.start()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_all_done(command, N)


def test_the_same_command_finishes_a_sweep_whose_storage_died(
    proxy: OptunaProxy, tmp_path: Path
) -> None:
    command = sweep(tmp_path, storage=proxy.uri)
    with command.started(sleep_s=0.05) as process:
        command.wait_for(10, process)
        proxy.kill()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"nntrain: hydra.sweeper.storage={proxy.uri} stopped responding" in err
    assert "Traceback" not in err
    command.assert_no_process_is_left()
    proxy.start()
    done = command.run()
    assert done.returncode == 0, done.stderr
    assert_all_done(command, N)


# --- clocks


def test_a_trial_is_not_overdue_when_the_clocks_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summer_ends = datetime.now(UTC) + timedelta(minutes=30)  # in summer time: half an hour ago
    day = summer_ends.timetuple().tm_yday - 1
    monkeypatch.setenv("TZ", f"STD0DST-1,0/0,{day}/{summer_ends:%H:%M:%S}")
    options = ["hydra.sweeper.n_trials=2", "hydra.sweeper.trial_timeout_s=600"]
    command = sweep(tmp_path, *options)
    done = command.run(sleep_s=2)
    assert done.returncode == 0, done.stderr
    assert_all_done(command, 2)


# --- signals


@pytest.mark.parametrize("receiver", [os.kill, os.killpg])
@pytest.mark.parametrize(
    ("n_jobs", "signum"),
    [
        (1, signal.SIGINT),
        (1, signal.SIGTERM),
        (1, signal.SIGHUP),
        (2, signal.SIGINT),
        (2, signal.SIGUSR1),
        (2, signal.SIGUSR2),
    ],
)
def test_a_signal_stops_the_trials_and_the_same_command_continues(
    n_jobs: int, signum: int, receiver: Callable[[int, int], None], tmp_path: Path
) -> None:
    command = sweep(tmp_path, f"hydra.sweeper.n_jobs={n_jobs}", "hydra.sweeper.n_trials=4")
    running = list(range(n_jobs))
    with command.started(sleep_s=60) as process:
        command.wait_until_started(running, process)
        receiver(process.pid, signum)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert "the same command again" in out
    found = causes(command.trials())
    assert [found[number][:2] for number in running] == [("FAIL", "interrupted")] * len(running)
    assert states(command.trials()) == {"FAIL": len(running), "WAITING": len(running)}
    assert (command.study_folder / "report.html").is_file()
    command.assert_no_process_is_left()
    if receiver == os.kill and signum == signal.SIGINT:
        done = command.run()
        assert done.returncode == 0, done.stderr
        assert_all_done(command, 4)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_the_trial_of_a_preempted_worker_is_queued_again_and_not_counted_as_a_failure(
    signum: int, tmp_path: Path
) -> None:
    options = ["hydra.sweeper.n_trials=2", "hydra.sweeper.max_failure_rate=0"]
    command = sweep(tmp_path, *options)
    with command.started(["hang"], sleep_s=5) as process:
        command.wait_until_started([0], process)
        worker = next(each for each in command.workers() if is_of(command.trials()[0], each.pid))
        worker.send_signal(signum)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert causes(command.trials())[0][:2] == ("FAIL", "interrupted")
    assert states(command.trials()) == {"FAIL": 1, "COMPLETE": 2}


def test_a_second_signal_ends_the_sweep_at_once(tmp_path: Path) -> None:
    command = sweep(tmp_path, "hydra.sweeper.n_trials=4")
    with command.started(["deaf", "deaf"]) as process:
        command.wait_until_started([0, 1], process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any("press Ctrl-C again" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert states(command.trials()) == {"FAIL": 2, "WAITING": 2}
    command.assert_no_process_is_left()
