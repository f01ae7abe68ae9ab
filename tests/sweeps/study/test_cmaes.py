"""CMA-ES continues a study, and runs no code that the study contains."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import CmaEsSampler
from optuna.trial import create_trial

from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import suggest
from nntrain.sweeps.study.cmaes import Cmaes
from nntrain.sweeps.study.opening import open_study
from tests.sweeps.small_app import SAMPLERS, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

VARIANTS: list[Mapping[str, Any]] = [{}, {"use_separable_cma": True}, {"with_margin": True}]


def plan_of(folder: Path, **options: Any) -> SweepPlan:
    sampler = {**SAMPLERS["cmaes"], "seed": 3, **options}
    return make_plan(folder, "x=interval(-1,1)", "y=interval(-1,1)", sampler=sampler)


def run(plan: SweepPlan, n: int) -> list[dict[str, Any]]:
    """Runs trials in a study that is opened anew for each trial, as by another process."""
    for _ in range(n):
        study, _ = open_study(plan)
        trial = study.ask()
        suggest(trial, plan.space)
        study.tell(trial, trial.params["x"] ** 2 + trial.params["y"] ** 2)
    return [trial.params for trial in open_study(plan)[0].get_trials()]


@pytest.mark.parametrize("options", VARIANTS)
def test_it_samples_the_same_values_as_optuna(options: Mapping[str, Any], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, **options)
    found = run(plan, 25)
    assert any("cma" in key for trial in open_study(plan)[0].trials for key in trial.system_attrs)
    storage = optuna.storages.InMemoryStorage()
    arguments = {key: one for key, one in plan.sampler.items() if key != "_target_"}
    for _ in range(25):
        study = optuna.create_study(
            study_name="s",
            sampler=CmaEsSampler(**arguments),
            storage=storage,
            load_if_exists=True,
        )
        trial = study.ask()
        suggest(trial, plan.space)
        study.tell(trial, trial.params["x"] ** 2 + trial.params["y"] ** 2)
    assert found == [trial.params for trial in study.get_trials()]


class Evil:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


FOREIGN: list[tuple[bytes, str]] = [
    (pickle.dumps(Evil()), "it names posix.mkdir"),
    (pickle.dumps(Evil(), protocol=0), "it names posix.mkdir"),
    (pickle.dumps([np.random.default_rng(0)]), "it names numpy.random._pickle."),
    (b"ccmaes._cma\nnp.os.mkdir\n(S'evil'\ntR.", "it names cmaes._cma.np.os.mkdir"),
    (b"\x80\x04\x8c\x05cmaes\x8c\x0b_cma.np.eye\x93.", "it names cmaes._cma.np.eye"),
    (pickle.dumps({}), "it is of type dict"),
    (pickle.dumps({})[:-1], ""),
    (b"", "cma:optimizer:0"),
    (b"\x00\xff", ""),
]


@pytest.mark.parametrize(("content", "message"), FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_study_runs_no_code(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of(tmp_path / "study")
    study, _ = open_study(plan)
    assert isinstance(study.sampler, Cmaes)
    distributions = dict(plan.space.distributions)
    study.add_trial(
        create_trial(
            params={"x": 0.0, "y": 0.0},
            distributions=distributions,
            value=0.0,
            system_attrs=study.sampler._split_optimizer_str(content.hex()) or {"cma:optimizer": ""},
        )
    )
    with pytest.raises(SweepError, match="not trusted or is damaged") as caught:
        open_study(plan)
    assert message in str(caught.value)
    assert not (tmp_path / "evil").exists()
