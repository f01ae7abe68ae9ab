"""The trial that this process runs, where a job finds it."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest

from nntrain.sweeps import current_trial
from nntrain.sweeps.context import Running, running, trial_runs


def a_trial() -> optuna.Trial:
    return optuna.create_study().ask()


def test_outside_a_sweep_there_is_none() -> None:
    assert current_trial() is None
    assert running() is None


def test_a_job_finds_its_trial_until_it_ends() -> None:
    one = Running(a_trial(), study_name="s")
    with trial_runs(one):
        assert current_trial() is one.trial
        assert running() is one
    assert current_trial() is None


def test_a_job_that_fails_leaves_no_trial_behind() -> None:
    with pytest.raises(RuntimeError, match="broken"), trial_runs(Running(a_trial())):
        raise RuntimeError("broken")
    assert current_trial() is None


def test_the_innermost_trial_is_the_current_one() -> None:
    outer, inner = Running(a_trial()), Running(a_trial())
    with trial_runs(outer):
        with trial_runs(inner):
            assert running() is inner
            assert current_trial() is inner.trial
        assert running() is outer


@pytest.mark.slow
def test_what_a_job_imports_does_without_optuna_and_hydra() -> None:
    code = "import sys, nntrain.sweeps; print(sorted({'optuna', 'hydra', 'sqlalchemy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
