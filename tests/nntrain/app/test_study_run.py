"""The study's own run: its journal, its end, its continuation, and invalid configurations."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, open_dict

from nntrain.app.study_run import StudyRun
from nntrain.config.errors import ConfigError
from nntrain.core.names import RUN_UID
from nntrain.integrations.journal.records import JOURNAL, RunRecord, read_journal
from nntrain.integrations.mlflow.client import STATUS
from nntrain.result import StopReason, exit_code
from nntrain.sweeps import StudyCallback, SweepEnd, register
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.report.html import write_report
from nntrain.sweeps.report.results import write_results
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.opening import open_study
from nntrain.sweeps.study.trials import SweepStudy
from tests.sweeps.small_app import completed, make_plan

COMPLETED = SweepEnd(StopReason.COMPLETED)
OFFLINE = ("tracker.offline=true",)


def config(*overrides: str) -> DictConfig:
    """Returns nntrain's configuration, composed as for a sweep."""
    register()
    with initialize_config_module("nntrain.conf", version_base="1.3"):
        found = compose("config", overrides=list(overrides), return_hydra_config=True)
    with open_dict(found):
        found.hydra.sweep.dir = "study"
    return found


def started(
    folder: Path, *overrides: str, plan: SweepPlan | None = None
) -> tuple[StudyRun, SweepStudy, SweepPlan]:
    """Starts the run of a study."""
    plan = plan or make_plan(folder, "lr=interval(0,1)")
    study, _ = open_study(plan)
    run = StudyRun()
    run.check(plan, config(*OFFLINE, *overrides))
    run.before_sweep(study, plan)
    return run, study, plan


def ended(
    run: StudyRun, study: SweepStudy, plan: SweepPlan, end: SweepEnd = COMPLETED
) -> RunRecord:
    """Ends the sweep; returns the content of the journal."""
    write_results(plan, study.get_trials())
    run.after_sweep(study, plan, write_report(plan, study), end)
    return read_journal(plan.folder)


def test_the_study_run_is_a_study_callback() -> None:
    assert isinstance(StudyRun(), StudyCallback)


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    run, study, plan = started(tmp_path, "tracker=none")
    run.after_sweep(study, plan, {}, COMPLETED)
    assert not (tmp_path / JOURNAL).exists()


def test_an_application_without_trackers_has_no_run(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    study, _ = open_study(plan)
    run = StudyRun()
    run.check(plan, DictConfig({"x": 1, "hydra": {}}))
    run.before_sweep(study, plan)
    run.after_sweep(study, plan, {}, COMPLETED)
    assert not (tmp_path / JOURNAL).exists()


def test_the_run_starts_before_the_first_trial(tmp_path: Path) -> None:
    run, study, plan = started(tmp_path)
    record = read_journal(tmp_path)
    assert (record.run.uid, record.run.name, record.run.group, record.run.parent) == (
        study.user_attrs[RUN_UID],
        *["small"] * 2,
        "",
    )
    assert record.run.is_study
    assert record.run.tags["nntrain.study"] == "small"
    assert record.run.params["space.lr"] == "float from 0 to 1"
    assert record.end is None
    ended(run, study, plan)


def test_the_results_are_recorded(tmp_path: Path) -> None:
    run, study, plan = started(tmp_path)
    completed(study, plan, [0.3, 0.1, 0.2])
    record = ended(run, study, plan)
    (table,) = record.tables
    values = [row[table.columns.index("valid/loss")] for row in table.rows]
    assert (table.name, values) == ("trials", [0.3, 0.1, 0.2])
    assert "valid/loss=0.1 (trial 1)" in record.tags["mlflow.note.content"]
    files = {file.name: file.path for file in record.files}
    drawn = [f"figures/{name}.html" for name in ("history", "importances", "parallel_coordinates")]
    assert sorted(files) == sorted(
        ["report.html", "trials.csv", "optimization_results.yaml", *drawn]
    )
    for name in ("trials.csv", "optimization_results.yaml"):
        assert files[name].read_text() == (tmp_path / name).read_text()
    for name in drawn:
        assert "Plotly.newPlot" in files[name].read_text()


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (COMPLETED, "FINISHED", 0),
        (SweepEnd(StopReason.INTERRUPTED, "by SIGTERM", 15), "KILLED", 143),
        (SweepEnd(StopReason.ERROR, "RuntimeError: no"), "FAILED", 1),
    ],
)
def test_the_run_ends_as_the_sweep_did(
    end: SweepEnd, status: str, code: int, tmp_path: Path
) -> None:
    record = ended(*started(tmp_path), end)
    assert record.end is not None
    assert (STATUS[record.end.reason], exit_code(record.end.reason, record.end.signum)) == (
        status,
        code,
    )
    assert (record.end.message, record.tags["nntrain.outcome"]) == (end.message, str(end.reason))


def test_the_next_command_continues_the_same_run(tmp_path: Path) -> None:
    first = ended(*started(tmp_path), SweepEnd(StopReason.INTERRUPTED, signum=2))
    run, study, plan = started(tmp_path)
    assert read_journal(tmp_path).end is None
    completed(study, plan, [0.3])
    second = ended(run, study, plan)
    assert second.run.uid == first.run.uid
    assert second.end is not None
    assert second.end.reason is StopReason.COMPLETED
    assert len(second.tables[-1].rows) == 1


def test_the_run_of_a_dead_process_is_continued(tmp_path: Path) -> None:
    run, study, plan = started(tmp_path)
    ended(run, study, plan)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"kind":"sta')
    record = ended(*started(tmp_path))
    assert (record.end is not None, record.damaged) == (True, {})


def test_two_commands_on_one_study_write_one_run(tmp_path: Path) -> None:
    first, study, plan = started(tmp_path)
    second, _, _ = started(tmp_path)
    completed(study, plan, [0.3])
    ended(second, study, plan)
    assert read_journal(tmp_path).end is None
    assert len(ended(first, study, plan).tables) == 1


def test_the_command_that_ends_last_writes_the_results(tmp_path: Path) -> None:
    first, study, plan = started(tmp_path)
    second, _, _ = started(tmp_path)
    ended(first, study, plan)
    completed(study, plan, [0.3])
    record = ended(second, study, plan)
    assert record.end is not None
    assert len(record.tables[-1].rows) == 1


def test_the_journal_of_another_study_is_not_changed(tmp_path: Path) -> None:
    ended(*started(tmp_path))
    (tmp_path / "study.jsonl").unlink()
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(
        SweepError,
        match=r"journal.jsonl belongs to another study: change hydra.sweeper.study_name",
    ):
        started(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == before


# --- secrets

SECRET = "s3cr3t-of-the-user"


def written(record: RunRecord) -> str:
    """Returns everything that the trackers receive."""
    return "\n".join(
        path.read_text()
        for path in [record.run.folder / JOURNAL, *(file.path for file in record.files)]
    )


def test_no_secret_of_the_configuration_is_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"tracker.mlflow.tracking_uri=http://user:{SECRET}@127.0.0.1:9"
    monkeypatch.setattr("sys.argv", ["run", "-m", store])
    run, study, plan = started(tmp_path, store)
    (tmp_path / "best.yaml").write_text(
        f"tracker:\n  mlflow:\n    tracking_uri: http://user:{SECRET}@127.0.0.1:9\n"
    )
    record = ended(run, study, plan, SweepEnd(StopReason.ERROR, f"ConnectionError: {SECRET}"))
    assert "best.yaml" in {file.name for file in record.files}
    assert SECRET not in written(record)


def test_no_secret_of_the_search_space_is_in_the_run(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, f"+data.api_key={SECRET},{SECRET}2", "lr=interval(0,1)")
    run, study, _ = started(tmp_path, plan=plan)
    completed(study, plan, [0.1, 0.2])
    record = ended(run, study, plan)
    assert "trials.csv" in {file.name for file in record.files}
    assert SECRET not in written(record)


# --- invalid configurations

MISTAKES = {
    "tracker.finish_timeout_s=-1": "tracker.finish_timeout_s=-1 must be",
    "+tracker.mlflow.url=x": "Unknown key tracker.mlflow.url",
    "tracker.mlflow.tracking_uri=foo://bar": "tracking_uri=foo://bar is not a valid MLflow store",
    "n_epoch=0": "n_epoch=0 must be an integer of at least 1",
    "objective=valid/acc": "objective=valid/acc will not be recorded: .* valid/accuracy",
    "objective=[valid/loss,valid/los]": "objective=valid/los will not",
    "model.hidden=many": "model.hidden='many' has the wrong type",
    "seed=???": "seed needs a value",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_of_all_trials_is_an_error_before_anything_is_written(
    override: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=MISTAKES[override]):
        StudyRun().check(make_plan(tmp_path / "study"), config(override))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "objective",
    ["valid/loss", "train/accuracy", "time/epoch_s", "[valid/loss,valid/accuracy]", "null"],
)
def test_a_recorded_metric_can_be_the_objective(objective: str, tmp_path: Path) -> None:
    StudyRun().check(make_plan(tmp_path), config(f"objective={objective}"))


def test_the_parts_of_a_loss_can_be_the_objective(tmp_path: Path) -> None:
    parts = "{a: {_target_: torch.nn.CrossEntropyLoss}, b: {_target_: torch.nn.NLLLoss}}"
    loss = f"+loss={{_target_: nntrain.losses.MultiLoss, losses: {parts}}}"
    StudyRun().check(make_plan(tmp_path), config("objective=valid/a", "~loss", loss))


def test_a_value_that_a_users_search_space_sets_may_be_missing(tmp_path: Path) -> None:
    StudyRun().check(
        make_plan(tmp_path, custom_search_space="mine.space"), config("lr=???", "tracker=none")
    )


# --- undelivered runs


def test_an_undelivered_run_is_reported_with_the_command_that_delivers_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(*started(tmp_path))
    assert f"python -m nntrain.sync {tmp_path}" in capsys.readouterr().out
