"""Opening a new, existing, or changed study, and creating its sampler, pruner, and first trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from nntrain.config.errors import ConfigError
from nntrain.core.names import RUN_UID
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import first_params, suggest
from nntrain.sweeps.study.opening import (
    MADE_FROM,
    REPORTS_SUFFIX,
    begin,
    open_reports_study,
    open_study,
)
from nntrain.sweeps.study.samplers import make_sampler
from nntrain.sweeps.study.storage import STUDY_FILE, open_storage
from nntrain.sweeps.study.trials import (
    KILLED,
    OUTCOME,
    WARM_START,
    SweepStudy,
    claim,
    counted,
    give_up_or_retry,
)
from tests.sweeps.small_app import PRUNERS, SAMPLERS, App, completed, make_plan


def changed(folder: Path, plan: SweepPlan) -> str:
    """Returns the part of the error message that describes what changed in a plan."""
    with pytest.raises(SweepError) as caught:
        open_study(plan)
    text = str(caught.value)
    prefix = f"The study small in {folder} was created with different settings: "
    suffix = ". Restore these settings, or choose another hydra.sweeper.study_name."
    assert text.startswith(prefix)
    assert text.endswith(suffix)
    return text.removeprefix(prefix).removesuffix(suffix)


@pytest.mark.parametrize(
    "params", [("+api_key=Zq7-one,Zq7-two",), ("jwt=interval(0.1,1)", "otp=range(1,5)")]
)
def test_a_study_over_parameters_that_are_named_as_secrets_continues(
    params: tuple[str, ...], tmp_path: Path
) -> None:
    open_study(make_plan(tmp_path, *params))
    open_study(make_plan(tmp_path, *params))
    assert "Zq7" not in (tmp_path / STUDY_FILE).read_text()


@pytest.mark.parametrize("url", [None, "sqlite:///study.db"])
def test_the_same_study_continues(url: str | None, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, storage=url)
    study, _ = open_study(plan)
    completed(study, plan, [3.0, 2.0]) if url is None else study.add_trials(
        [create_trial(value=v) for v in (3.0, 2.0)]
    )
    again, _ = open_study(
        replace(plan, n_trials=50, pruner=PRUNERS["median"], sampler=SAMPLERS["tpe"])
    )
    assert again.user_attrs == study.user_attrs
    assert [trial.value for trial in again.trials] == [3.0, 2.0]


def test_a_study_has_a_uid() -> None:
    runs = [
        open_study(make_plan(Path(f"study-{i}").absolute()))[0].user_attrs[RUN_UID]
        for i in range(2)
    ]
    assert runs[0] != runs[1]
    assert all(len(run) == 16 and int(run, 16) >= 0 for run in runs)


CHANGES: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (("x=interval(0,2)",), {}, "x was float from 0 to 1 and is now float from 0 to 2"),
    (
        ("x=tag(log,interval(0.1,1))",),
        {},
        "x was float from 0 to 1 and is now float from 0.1 to 1, log",
    ),
    (("x=interval(0,1)", "y=a,b"), {}, "y was not swept over and is now choice(a, b)"),
    (("y=1,2",), {}, "x was float from 0 to 1 and is now not swept over"),
    (("x=interval(0,1)", "n_epoch=3"), {}, "the overrides were none and are now n_epoch=3"),
    ((), {"objectives": ["valid/accuracy"]}, "objective was valid/loss and is now valid/accuracy"),
    ((), {"directions": ["maximize"]}, "direction was minimize and is now maximize"),
    (
        (),
        {"directions": ["minimize", "maximize"]},
        "direction was minimize and is now minimize, maximize",
    ),
    ((), {"custom_search_space": "my.space"}, "custom_search_space was None and is now my.space"),
]


@pytest.mark.parametrize(
    ("arguments", "options", "difference"), CHANGES, ids=[change[-1] for change in CHANGES]
)
def test_a_changed_study_of_the_same_name_is_an_error(
    arguments: tuple[str, ...], options: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    open_study(make_plan(tmp_path))
    assert changed(tmp_path, make_plan(tmp_path, *arguments, **options)) == difference
    open_study(make_plan(tmp_path))


@pytest.mark.parametrize(
    ("before", "now", "difference"),
    [
        (["n_epoch=3"], ["n_epoch=4"], "the overrides were n_epoch=3 and are now n_epoch=4"),
        (
            ["n_epoch=3", "lr=1"],
            ["lr=1", "n_epoch=4"],
            "the overrides were n_epoch=3 and are now n_epoch=4",
        ),
        (["n_epoch=3", "lr=1"], ["lr=1"], "the overrides were n_epoch=3 and are now lr=1"),
        (["n_epoch=3"], [], "the overrides were n_epoch=3 and are now none"),
    ],
)
def test_a_changed_override_is_named(
    before: list[str], now: list[str], difference: str, tmp_path: Path
) -> None:
    open_study(make_plan(tmp_path, "x=interval(0,1)", *before))
    assert changed(tmp_path, make_plan(tmp_path, "x=interval(0,1)", *now)) == difference


def test_the_order_of_overrides_does_not_matter(tmp_path: Path) -> None:
    open_study(make_plan(tmp_path, "x=interval(0,1)", "y=1,2", "a=1", "b=2"))
    open_study(make_plan(tmp_path, "b=2", "y=1,2", "a=1", "x=interval(0,1)"))


def test_the_settings_of_a_study_are_recorded_once(tmp_path: Path) -> None:
    study, _ = open_study(make_plan(tmp_path))
    before = study.user_attrs[MADE_FROM]
    with pytest.raises(SweepError):
        open_study(make_plan(tmp_path, "x=interval(0,3)"))
    assert open_study(make_plan(tmp_path))[0].user_attrs[MADE_FROM] == before


# --- the samplers and pruners of the config groups

NEEDS: Mapping[str, list[str]] = {"threshold": ["hydra.sweeper.pruner.upper=5"]}
GRIDS = {"grid", "brute_force"}
SPACE = ["x=range(0,1,0.25)", "size=range(1,4)", "name=plain,other"]
N_GRID = 4 * 3 * 2


def run(plan: SweepPlan, n_trials: int) -> SweepStudy:
    """Runs a small study in which each trial reports three values and asks the pruner each time."""
    study, storage = open_study(plan)
    while (trial := claim(study, storage, plan.folder, n_trials)) is not None:
        suggest(trial, plan.space)
        value, state = 0.0, TrialState.COMPLETE
        for step in range(1, 4):
            value = trial.params.get("x", 0.5) + trial.params.get("size", 1) / step
            trial.report(value, step)
            if trial.should_prune():
                state = TrialState.PRUNED
                break
        study.tell(trial, value if state is TrialState.COMPLETE else None, state)
    return study


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_of_the_group_samples(name: str, app: App) -> None:
    space = SPACE if name in GRIDS else ["x=interval(0,1)", *SPACE[1:]]
    plan = app.plan(f"hydra/sweeper/sampler={name}", "hydra.sweeper.n_trials=15", *space)
    assert plan.sampler == SAMPLERS[name]
    study = run(plan, 15)
    assert plan.sampler["_target_"].rpartition(".")[2] in [
        cls.__name__ for cls in type(study.sampler).__mro__
    ]
    assert [trial.number for trial in study.trials] == list(range(15))
    for trial in study.trials:
        assert trial.params.keys() == plan.space.distributions.keys()
        for key, distribution in plan.space.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[key]))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", sorted(GRIDS))
def test_a_grid_tries_everything_once_and_ends(name: str, app: App) -> None:
    study = run(
        app.plan(f"hydra/sweeper/sampler={name}", "hydra.sweeper.n_trials=100", *SPACE), 100
    )
    tried = [tuple(trial.params[key] for key in ("x", "size", "name")) for trial in study.trials]
    assert len(tried) == N_GRID
    assert set(tried) == {
        (x / 4, n, name) for x in range(4) for n in (1, 2, 3) for name in ("plain", "other")
    }
    assert study.exhausted


def end_as_if_killed(
    study: SweepStudy, storage: BaseStorage, n_params: int, plan: SweepPlan
) -> None:
    """Claims a trial, suggests some of its parameters, and ends it as after SIGKILL."""
    trial = claim(study, storage, plan.folder, plan.n_trials)
    assert trial is not None
    for key, distribution in list(plan.space.distributions.items())[:n_params]:
        trial._suggest(key, distribution)
    give_up_or_retry(study, storage, study.get_trials()[trial.number], KILLED, "killed")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("n_params", [0, 1, 3])
def test_a_grid_with_a_killed_and_an_enqueued_trial_tries_everything_once(
    name: str, n_params: int, app: App
) -> None:
    plan = app.plan(f"hydra/sweeper/sampler={name}", f"hydra.sweeper.n_trials={N_GRID}", *SPACE)
    study, storage = open_study(plan)
    end_as_if_killed(study, storage, n_params, plan)
    params = study.get_trials()[0].params
    # an enqueued point runs in any case, so it must not be the point of the killed trial
    study.enqueue_trial(
        {"x": 0.25 if params.get("x") == 0.75 else 0.75, "size": 3, "name": "other"}
    )
    study = run(plan, N_GRID)
    tried = [
        tuple(trial.params[key] for key in ("x", "size", "name"))
        for trial in study.trials
        if trial.state is not TrialState.FAIL
    ]
    assert sorted(tried) == sorted(
        (x / 4, n, name) for x in range(4) for n in (1, 2, 3) for name in ("plain", "other")
    )


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_of_the_group_can_be_used(name: str, app: App) -> None:
    needs = NEEDS.get(name, [])
    plan = app.plan(f"hydra/sweeper/pruner={name}", *needs, "hydra.sweeper.sampler.seed=1", *SPACE)
    study = run(plan, 15)
    assert type(study.pruner).__name__ == plan.pruner["_target_"].rpartition(".")[2]
    states = {trial.state for trial in study.trials}
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert (TrialState.PRUNED in states) == (
        name in {"median", "percentile", "successive_halving", "hyperband"}
    )


def test_a_pruner_may_wrap_another(app: App) -> None:
    inner = "hydra.sweeper.pruner.wrapped_pruner._target_=optuna.pruners.PercentilePruner"
    plan = app.plan(
        "hydra/sweeper/pruner=patient",
        inner,
        "+hydra.sweeper.pruner.wrapped_pruner.percentile=10.0",
        *SPACE,
    )
    study, _ = open_study(plan)
    assert isinstance(study.pruner, optuna.pruners.PatientPruner)
    assert isinstance(study.pruner._wrapped_pruner, optuna.pruners.PercentilePruner)


def drawn(seed: int | None, offset: int) -> list[float]:
    study = optuna.create_study(
        sampler=make_sampler(
            make_plan(Path("s"), sampler={**SAMPLERS["random"], "seed": seed}), offset
        )
    )
    return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]


def test_each_worker_has_its_own_seed() -> None:
    assert drawn(1, 0) == drawn(1, 0)
    assert drawn(1, 2) == drawn(3, 0)
    assert drawn(1, 0) != drawn(1, 1000)
    assert drawn(None, 0) != drawn(None, 0)


INFINITE = "x has infinitely many values, but a grid search must try all values: use "

BROKEN = [
    (
        "sampler",
        {"_target_": "optuna.samplers.TPESampller"},
        "hydra.sweeper.sampler._target_=optuna.samplers.TPESampller does not exist: did ",
    ),
    (
        "sampler",
        {"_target_": "optuna.pruners.NopPruner"},
        "hydra.sweeper.sampler._target_=optuna.pruners.NopPruner creates an object of type ",
    ),
    (
        "sampler",
        {"_target_": "nowhere.Sampler"},
        "hydra.sweeper.sampler._target_=nowhere.Sampler is not trusted",
    ),
    (
        "sampler",
        {"_target_": "TPESampler"},
        "hydra.sweeper.sampler._target_=TPESampler is not trusted",
    ),
    (
        "sampler",
        {**SAMPLERS["tpe"], "sed": 1},
        "hydra.sweeper.sampler.sed",
    ),
    ("sampler", SAMPLERS["grid"], INFINITE),
    ("sampler", SAMPLERS["brute_force"], INFINITE),
    ("pruner", {"_target_": "os.system"}, "hydra.sweeper.pruner._target_=os.system is not trusted"),
    (
        "pruner",
        PRUNERS["threshold"],
        "hydra.sweeper.pruner: Either lower or upper must be specified.",
    ),
    (
        "pruner",
        {**PRUNERS["percentile"], "percentile": 150.0},
        "hydra.sweeper.pruner: Percentile must be between 0 and 100",
    ),
    ("pruner", {**PRUNERS["successive_halving"], "reduction_factor": 1}, "hydra.sweeper.pruner: "),
]


@pytest.mark.parametrize(("what", "node", "message"), BROKEN)
def test_a_sampler_or_pruner_that_cannot_be_instantiated_is_an_error(
    what: str, node: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_study(make_plan(tmp_path, **{what: node}))
    assert message in str(caught.value)


def test_a_sampler_for_one_objective_is_refused_for_several(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="CMA-ES supports only one objective"):
        open_study(
            make_plan(
                tmp_path,
                sampler=SAMPLERS["cmaes"],
                directions=["minimize", "maximize"],
                monitor=None,
            )
        )


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "cmaes"])
def test_every_other_sampler_accepts_several_objectives(name: str, tmp_path: Path) -> None:
    options = {"sampler": SAMPLERS[name], "directions": ["minimize", "maximize"], "monitor": None}
    plan = make_plan(tmp_path, "x=range(0,1,0.25)", "y=a,b", "k=range(1,30)", **options)
    study, _ = open_study(plan)
    for _ in range(12):
        trial = study.ask()
        suggest(trial, plan.space)
        study.tell(trial, [trial.params["x"], trial.params["k"]])
    assert len(study.best_trials) > 0


# --- the first trials of a study


def test_enqueued_configurations_are_tried_first_and_count(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path, "x=interval(0,1)", "y=a,b", enqueue=[{"x": 0.25, "y": "b"}, {"y": "a"}]
    )
    study, storage = open_study(plan)
    begin(study, plan)
    begin(study, plan)  # has no effect, because the study already has trials
    found = []
    while (trial := claim(study, storage, tmp_path, 3)) is not None:
        suggest(trial, plan.space)
        study.tell(trial, 1.0)
        found.append(trial.params)
    assert len(found) == 3
    assert found[0] == {"x": 0.25, "y": "b"}
    assert found[1]["y"] == "a"


def other_study(folder: Path, *arguments: str, **options: Any) -> list[dict[str, Any]]:
    """Creates a study with three completed trials and one failed trial; returns the parameters."""
    plan = make_plan(folder, *arguments, study_name="other", **options)
    study, _ = open_study(plan)
    completed(study, plan, [3.0, 2.0, 1.0])
    study.tell(study.ask(), state=TrialState.FAIL)
    return [trial.params for trial in study.trials[:3]]


def test_trials_of_a_warm_start_do_not_count(tmp_path: Path) -> None:
    params = other_study(tmp_path / "other", "x=interval(0,1)", "y=a,b", "n_epoch=1")
    plan = make_plan(
        tmp_path / "new", "x=interval(0,1)", "y=a,b", warm_start=str(tmp_path / "other")
    )
    study, storage = open_study(plan)
    begin(study, plan)
    assert [trial.params for trial in study.trials] == params
    assert [trial.value for trial in study.trials] == [3.0, 2.0, 1.0]
    assert [trial.user_attrs for trial in study.trials] == [
        {WARM_START: i, OUTCOME: "completed"} for i in range(3)
    ]
    assert counted(study.trials) == []
    assert study.best_value == 1.0
    assert claim(study, storage, plan.folder, 1) is not None
    assert claim(study, storage, plan.folder, 1) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("x=interval(0,1)",), 0),
        (("x=interval(0,1)", "y=a,b", "z=1,2"), 0),
        (("x=interval(-5,5)", "y=a,b,c"), 3),
        (("x=interval(2,3)", "y=a,b"), 0),
        (("x=interval(0,1)", "y=c,d"), 0),
    ],
    ids=["fewer", "more", "wider", "elsewhere", "other choices"],
)
def test_a_warm_start_copies_only_trials_inside_the_space(
    arguments: tuple[str, ...], expected: int, tmp_path: Path
) -> None:
    other_study(tmp_path / "other", "x=interval(0,1)", "y=a,b")
    plan = make_plan(tmp_path / "new", *arguments, warm_start=str(tmp_path / "other"))
    study, _ = open_study(plan)
    begin(study, plan)
    assert len(study.trials) == expected


def test_a_warm_start_from_another_direction_is_an_error(tmp_path: Path) -> None:
    other_study(tmp_path / "other", directions=["maximize"])
    plan = make_plan(tmp_path / "new", warm_start=str(tmp_path / "other"))
    study, _ = open_study(plan)
    with pytest.raises(
        SweepError, match="has direction maximize, but this sweep has minimize: choose a study with"
    ):
        begin(study, plan)


def test_a_warm_start_from_a_folder_without_a_study_is_an_error(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "new", warm_start=str(tmp_path / "nothing"))
    study, _ = open_study(plan)
    with pytest.raises(
        SweepError, match=r"hydra\.sweeper\.warm_start=.*nothing is not the folder of a study"
    ):
        begin(study, plan)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / STUDY_FILE).touch()
    with pytest.raises(SweepError, match="nothing is not the folder of a study"):
        begin(study, plan)


@pytest.mark.parametrize("names", [["0"], ["12", "report.html"]])
def test_the_trials_of_another_study_are_never_overwritten(
    names: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    plan = make_plan(tmp_path)
    study, _ = open_study(plan)
    with pytest.raises(SweepError, match="contains trials that are not in the study small"):
        begin(study, plan)


def test_a_folder_with_other_files_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    plan = make_plan(tmp_path)
    begin(open_study(plan)[0], plan)


def test_a_pruning_metric_has_its_own_study(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path, monitor="valid/accuracy", monitor_direction="maximize", pruner=PRUNERS["median"]
    )
    study, storage = open_study(plan)
    for _ in range(2):
        reports = open_reports_study(plan, storage)
    assert reports.study_name == "small" + REPORTS_SUFFIX
    assert reports.direction is optuna.study.StudyDirection.MAXIMIZE
    assert isinstance(reports.pruner, optuna.pruners.MedianPruner)
    assert sorted(one.study_name for one in open_storage(None, tmp_path).get_all_studies()) == [
        "small",
        "small (pruning)",
    ]
    assert study.direction is optuna.study.StudyDirection.MINIMIZE


def test_the_first_configuration_of_a_space_can_be_tried(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "x=interval(0,1)", "y=a,b", "z=int(interval(1,8))")
    study, _ = open_study(plan)
    study.enqueue_trial(first_params(plan.space))
    trial = study.ask()
    suggest(trial, plan.space)
    assert trial.params == first_params(plan.space)


@pytest.mark.parametrize("seed", ["abc", True, 1.5])
def test_a_seed_that_is_not_a_whole_number_is_an_error(seed: Any, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, sampler={**SAMPLERS["tpe"], "seed": seed})
    with pytest.raises(
        ConfigError, match=rf"hydra\.sweeper\.sampler\.seed={seed!r} has the wrong type"
    ):
        make_sampler(plan)
