"""The study's own run: what its journal says, how it ends and goes on, and what is refused before a sweep begins."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, open_dict

from nntrain.app.study_run import StudyRun
from nntrain.integrations.journal.records import JOURNAL, RunRecord, read_journal
from nntrain.integrations.mlflow import STATUS
from nntrain.result import StopReason, exit_code
from nntrain.sweeps import StudyCallback, SweepEnd
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.report.html import write_report
from nntrain.sweeps.report.results import write_results
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.opening import RUN, open_study
from nntrain.sweeps.study.trials import SweepStudy
from tests.sweeps.small_app import completed, make_plan

COMPLETED = SweepEnd(StopReason.COMPLETED)
OFFLINE = ("tracker.offline=true",)


def config(*overrides: str) -> DictConfig:
    """A configuration of nntrain's as a sweep composes it."""
    with initialize_config_module("nntrain.conf", version_base="1.3"):
        found = compose("config", overrides=list(overrides), return_hydra_config=True)
    with open_dict(found):
        found.hydra.sweep.dir = "study"
    return found


def begun(
    folder: Path, *overrides: str, plan: SweepPlan | None = None
) -> tuple[StudyRun, SweepStudy, SweepPlan]:
    """The run of a study, begun."""
    plan = plan or make_plan(folder, "lr=interval(0,1)")
    study, _ = open_study(plan)
    run = StudyRun()
    run.check(plan, config(*OFFLINE, *overrides))
    run.before_sweep(study, plan)
    return run, study, plan


def ended(
    run: StudyRun, study: SweepStudy, plan: SweepPlan, end: SweepEnd = COMPLETED
) -> RunRecord:
    """What the journal says after the sweep."""
    write_results(plan, study.get_trials())
    run.after_sweep(study, plan, write_report(plan, study), end)
    return read_journal(plan.folder)


def test_it_is_a_callback_of_the_sweep() -> None:
    assert isinstance(StudyRun(), StudyCallback)


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    run, study, plan = begun(tmp_path, "tracker=none")
    run.after_sweep(study, plan, {}, COMPLETED)
    assert not (tmp_path / JOURNAL).exists()


def test_another_application_has_no_run(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    study, _ = open_study(plan)
    run = StudyRun()
    run.check(plan, DictConfig({"x": 1, "hydra": {}}))
    run.before_sweep(study, plan)
    run.after_sweep(study, plan, {}, COMPLETED)
    assert not (tmp_path / JOURNAL).exists()


def test_the_run_has_begun_before_the_first_trial(tmp_path: Path) -> None:
    run, study, plan = begun(tmp_path)
    record = read_journal(tmp_path)
    assert (record.run.uid, record.run.name, record.run.group, record.run.parent) == (
        study.user_attrs[RUN],
        *["small"] * 2,
        "",
    )
    assert record.run.is_study
    assert record.run.tags["nntrain.study"] == "small"
    assert record.run.params["space.lr"] == "float from 0 to 1"
    assert record.end is None
    ended(run, study, plan)


def test_what_was_found_is_kept(tmp_path: Path) -> None:
    run, study, plan = begun(tmp_path)
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
    record = ended(*begun(tmp_path), end)
    assert record.end is not None
    assert (STATUS[record.end.reason], exit_code(record.end.reason, record.end.signum)) == (
        status,
        code,
    )
    assert (record.end.message, record.tags["nntrain.outcome"]) == (end.message, str(end.reason))


def test_the_next_command_goes_on_in_the_same_run(tmp_path: Path) -> None:
    first = ended(*begun(tmp_path), SweepEnd(StopReason.INTERRUPTED, signum=2))
    run, study, plan = begun(tmp_path)
    assert read_journal(tmp_path).end is None
    completed(study, plan, [0.3])
    second = ended(run, study, plan)
    assert second.run.uid == first.run.uid
    assert second.end is not None
    assert second.end.reason is StopReason.COMPLETED
    assert len(second.tables[-1].rows) == 1


def test_what_a_process_that_died_has_left_is_gone_on_with(tmp_path: Path) -> None:
    run, study, plan = begun(tmp_path)
    ended(run, study, plan)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"kind":"sta')
    record = ended(*begun(tmp_path))
    assert (record.end is not None, record.damaged) == (True, {})


def test_two_commands_on_one_study_write_one_run(tmp_path: Path) -> None:
    first, study, plan = begun(tmp_path)
    second, _, _ = begun(tmp_path)
    completed(study, plan, [0.3])
    ended(second, study, plan)
    assert read_journal(tmp_path).end is None
    assert len(ended(first, study, plan).tables) == 1


def test_the_command_that_ends_last_writes_what_was_found(tmp_path: Path) -> None:
    first, study, plan = begun(tmp_path)
    second, _, _ = begun(tmp_path)
    ended(first, study, plan)
    completed(study, plan, [0.3])
    record = ended(second, study, plan)
    assert record.end is not None
    assert len(record.tables[-1].rows) == 1


def test_the_journal_of_another_study_is_left_alone(tmp_path: Path) -> None:
    ended(*begun(tmp_path))
    (tmp_path / "study.jsonl").unlink()
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(
        SweepError,
        match=r"journal.jsonl is of another study: give another hydra.sweeper.study_name",
    ):
        begun(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == before


# --- secrets

SECRET = "s3cr3t-of-the-user"


def written(record: RunRecord) -> str:
    """All that the trackers get."""
    return "\n".join(
        path.read_text()
        for path in [record.run.folder / JOURNAL, *(file.path for file in record.files)]
    )


def test_no_secret_of_the_configuration_is_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"tracker.mlflow.tracking_uri=http://user:{SECRET}@127.0.0.1:9"
    monkeypatch.setattr("sys.argv", ["run", "-m", store])
    run, study, plan = begun(tmp_path, store)
    (tmp_path / "best.yaml").write_text(
        f"tracker:\n  mlflow:\n    tracking_uri: http://user:{SECRET}@127.0.0.1:9\n"
    )
    record = ended(run, study, plan, SweepEnd(StopReason.ERROR, f"ConnectionError: {SECRET}"))
    assert "best.yaml" in {file.name for file in record.files}
    assert SECRET not in written(record)


def test_no_secret_that_is_swept_over_is_in_the_run(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, f"+data.api_key={SECRET},{SECRET}2", "lr=interval(0,1)")
    run, study, _ = begun(tmp_path, plan=plan)
    completed(study, plan, [0.1, 0.2])
    record = ended(run, study, plan)
    assert "trials.csv" in {file.name for file in record.files}
    assert SECRET not in written(record)


# --- what is refused

MISTAKES = {
    "tracker.finish_timeout_s=-1": "tracker.finish_timeout_s=-1 is no time to wait",
    "+tracker.mlflow.url=x": "tracker.mlflow.url is no parameter",
    "tracker.mlflow.tracking_uri=foo://bar": "tracker.mlflow.tracking_uri=foo://bar is no store",
    "n_epoch=0": "n_epoch=0 trains nothing",
    "objective=valid/acc": r"objective=valid/acc is not going to be recorded: .* valid/loss, valid/accuracy",
    "objective=[valid/loss,valid/los]": "objective=valid/los is not going",
    "model.hidden=many": "model.hidden='many' has the wrong type",
    "seed=???": "seed needs a value",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_of_all_trials_is_told_before_anything_is_written(
    override: str, tmp_path: Path
) -> None:
    with pytest.raises(SweepError, match=MISTAKES[override]):
        StudyRun().check(make_plan(tmp_path / "study"), config(override))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "objective",
    ["valid/loss", "train/accuracy", "time/epoch_s", "[valid/loss,valid/accuracy]", "null"],
)
def test_what_is_recorded_can_be_the_objective(objective: str, tmp_path: Path) -> None:
    StudyRun().check(make_plan(tmp_path), config(f"objective={objective}"))


def test_the_parts_of_a_loss_can_be_the_objective(tmp_path: Path) -> None:
    parts = "{a: {_target_: torch.nn.CrossEntropyLoss}, b: {_target_: torch.nn.NLLLoss}}"
    loss = f"+loss={{_target_: nntrain.losses.MultiLoss, losses: {parts}}}"
    StudyRun().check(make_plan(tmp_path), config("objective=valid/a", "~loss", loss))


def test_a_value_that_the_users_function_chooses_may_be_missing(tmp_path: Path) -> None:
    StudyRun().check(
        make_plan(tmp_path, custom_search_space="mine.space"), config("lr=???", "tracker=none")
    )


# --- what is not delivered


def test_what_is_not_delivered_is_told_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(*begun(tmp_path))
    assert f"python -m nntrain.sync {tmp_path}" in capsys.readouterr().out
