"""A job can access its trial."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest

from nntrain.sweeps import current_trial
from nntrain.sweeps.context import TrialContext, active_trial, trial_context


def a_trial() -> optuna.Trial:
    return optuna.create_study().ask()


def test_outside_a_sweep_the_current_trial_is_none() -> None:
    assert current_trial() is None
    assert trial_context() is None


def test_a_job_finds_its_trial_until_it_ends() -> None:
    one = TrialContext(a_trial(), study_name="s")
    with active_trial(one):
        assert current_trial() is one.trial
        assert trial_context() is one
    assert current_trial() is None


def test_a_job_that_fails_leaves_no_trial_behind() -> None:
    with pytest.raises(RuntimeError, match="broken"), active_trial(TrialContext(a_trial())):
        raise RuntimeError("broken")
    assert current_trial() is None


def test_the_innermost_trial_is_the_current_one() -> None:
    outer, inner = TrialContext(a_trial()), TrialContext(a_trial())
    with active_trial(outer):
        with active_trial(inner):
            assert trial_context() is inner
            assert current_trial() is inner.trial
        assert trial_context() is outer


@pytest.mark.slow
def test_the_imports_of_a_job_load_neither_optuna_nor_hydra() -> None:
    modules = {"optuna", "hydra", "sqlalchemy"}
    imports = "import sys; from nntrain.sweeps import PruningCallback, current_trial"
    code = f"{imports}; print(sorted({modules} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
