"""`nntrain.track` gives any training loop the guarantees of a Learner's tracked run."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import nntrain
from nntrain.config.errors import ConfigError
from nntrain.integrations import MemoryTracker, MLflowTracker, WandbTracker, read_journal
from nntrain.integrations.journal.records import RunRecord, lines
from nntrain.integrations.journal.writer import JournalInUseError
from nntrain.integrations.memory import MemoryRun
from nntrain.integrations.run import GROUP_TAG, Run
from nntrain.integrations.shipping import run_writer
from nntrain.integrations.shipping.client import InProcess, Offline
from nntrain.integrations.tracker import OUTCOME_TAG, Tracker
from nntrain.result import StopReason

SECRET = "S3NT1NEL"


@contextmanager
def tracked(folder: str | Path = "run", **options: Any) -> Iterator[tuple[Run, MemoryTracker]]:
    """Yields a run that is delivered to memory at the end of the block."""
    memory = options.pop("memory", None) or MemoryTracker()
    with nntrain.track(memory, folder=folder, shipper=InProcess(), **options) as run:
        yield run, memory


def test_logged_metrics_reach_the_tracker() -> None:
    with tracked(name="mine", params={"lr": 0.1, "model": {"hidden": 8}}) as (run, memory):
        total = torch.zeros(())
        for step in range(1, 4):
            total += step
            run.log_metrics({"batch/loss": total, "lr": 0.1}, step)
        assert memory.runs == {}  # nothing is delivered before the block ends
    assert memory.series("batch/loss") == [(1, 1.0), (2, 3.0), (3, 6.0)]
    assert memory.series("lr") == [(1, 0.1), (2, 0.1), (3, 0.1)]
    assert memory.run.params == {"lr": 0.1, "model.hidden": 8}
    assert (memory.run.info.name, memory.run.id) == ("mine", run.uid)
    assert memory.run.end is not None
    assert memory.run.end.reason is StopReason.COMPLETED
    assert run.folder == Path("run").absolute()
    assert len(run.uid) == 16


class Drawing:
    """A fake figure with a `savefig` method."""

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        Path(fname).write_bytes(b"drawn")


def test_figures_tables_files_models_and_tags_reach_the_tracker(tmp_path: Path) -> None:
    weights = tmp_path / "last.pt"
    node = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    with tracked() as (run, memory):
        run.log_figure(Drawing(), "plots/a.png")
        run.log_table("worst", ["item", "loss"], [[17, 4.2]])
        weights.write_text("first")
        run.log_artifact(weights, "copies/first.pt", ["a"])
        run.log_model(weights, "best.pt", ["best"], node=node)
        weights.write_text("second")
        run.set_tags({"note": "good", "n": 3})
        run.set_tags({"note": "better"})
    assert memory.run.figures == {"plots/a.png": b"drawn"}
    assert memory.run.tables["worst"].rows == [[17, 4.2]]
    assert memory.run.artifacts == {"copies/first.pt": b"first"}
    model = memory.run.models["best.pt"]
    assert (model.path.read_text(), model.aliases, model.node) == ("first", ("best",), node)
    assert (memory.run.tags["note"], memory.run.tags["n"]) == ("better", "3")


def test_figures_and_tables_are_recorded_at_the_step_of_the_last_metrics() -> None:
    with tracked() as (run, _):
        run.log_figure(Drawing(), "a.png")
        run.log_metrics({"a": 1.0}, 7)
        run.log_table("t", ["a"], [[1]])
        run.log_figure(Drawing(), "b.png", step=3)
    steps = [record["step"] for record in records("run") if record["kind"] in ("figure", "table")]
    assert steps == [0, 7, 3]


def records(folder: str) -> list[dict[str, Any]]:
    found = [line.record for line in lines(Path(folder, "journal.jsonl"))]
    return [dict(record) for record in found if record is not None]


def test_the_run_has_tags_of_its_origin() -> None:
    with tracked(tags={"mine": 1}, group="ablation") as (_, memory):
        pass
    tags = memory.run.tags
    assert (tags["mine"], tags[GROUP_TAG], memory.run.info.group) == ("1", "ablation", "ablation")
    assert not memory.run.info.is_study
    assert tags["nntrain.version.torch"] == torch.__version__
    assert tags["nntrain.cwd"] == str(Path.cwd())
    assert tags["mlflow.source.name"] != "nntrain.run"


# --- outcomes


OUTCOMES = [
    (None, StopReason.COMPLETED, ""),
    (KeyboardInterrupt(), StopReason.INTERRUPTED, "KeyboardInterrupt"),
    (SystemExit(), StopReason.COMPLETED, ""),
    (SystemExit(0), StopReason.COMPLETED, ""),
    (SystemExit(130), StopReason.INTERRUPTED, "exit code 130, SIGINT"),
    (SystemExit(3), StopReason.ERROR, "SystemExit: 3"),
    (SystemExit("no data"), StopReason.ERROR, "SystemExit: no data"),
    (MemoryError(), StopReason.OUT_OF_MEMORY, "MemoryError"),
    (ValueError("boom"), StopReason.ERROR, "ValueError: boom"),
    (nntrain.CancelFitException("enough"), StopReason.EARLY_STOPPED, "enough"),
]


def run_of(block: Callable[[Run], None]) -> tuple[MemoryRun, BaseException | None]:
    """Tracks a block; returns the stored run and the exception that the block raised."""
    memory = MemoryTracker()
    try:
        with tracked(memory=memory) as (run, _):
            block(run)
    except BaseException as err:  # noqa: BLE001 - every kind of exception passes through the block
        return memory.run, err
    return memory.run, None


@pytest.mark.parametrize(("error", "reason", "message"), OUTCOMES, ids=repr)
def test_the_exception_that_leaves_the_block_decides_the_outcome_and_is_raised_again(
    error: BaseException | None, reason: StopReason, message: str
) -> None:
    def block(run: Run) -> None:
        run.log_metrics({"a": 1.0}, 1)
        if error is not None:
            raise error

    stored, raised = run_of(block)
    assert raised is error
    assert stored.end is not None
    assert (stored.end.reason, stored.end.message) == (reason, message)
    assert stored.tags[OUTCOME_TAG] == reason
    assert stored.tags.get("nntrain.message", "") == message
    failed = reason in (StopReason.ERROR, StopReason.OUT_OF_MEMORY)
    assert ("Traceback" in stored.tags.get("nntrain.traceback", "")) is failed
    assert stored.series("a") == [(1, 1.0)]


def reason_of(block: Callable[[Run], None]) -> StopReason:
    stored, _ = run_of(block)
    assert stored.end is not None
    return stored.end.reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, StopReason.DIVERGED),
        (SystemExit(0), StopReason.DIVERGED),
        (SystemExit(1), StopReason.DIVERGED),
        (SystemExit(143), StopReason.INTERRUPTED),
        (KeyboardInterrupt(), StopReason.INTERRUPTED),
        (ValueError("boom"), StopReason.ERROR),
    ],
    ids=repr,
)
def test_a_stated_outcome_counts_unless_an_exception_is_more_specific(
    error: BaseException | None, expected: StopReason
) -> None:
    def block(run: Run) -> None:
        run.outcome(StopReason.EARLY_STOPPED)
        run.outcome("diverged", "loss is NaN")
        if error is not None:
            raise error

    assert reason_of(block) is expected


def exit_on_ctrl_c(run: Run) -> None:
    """Exits on Ctrl-C as Lightning's Trainer does."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def exit_without_context(run: Run) -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise SystemExit(1) from None


@pytest.mark.parametrize(
    ("block", "expected"),
    [(exit_on_ctrl_c, StopReason.INTERRUPTED), (exit_without_context, StopReason.ERROR)],
)
def test_an_exit_while_an_exception_is_handled_has_the_outcome_of_that_exception(
    block: Callable[[Run], None], expected: StopReason
) -> None:
    assert reason_of(block) is expected


def test_an_outcome_that_is_stated_after_the_end_is_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with tracked() as (run, _):
        pass
    run.outcome("diverged")
    (record,) = caplog.records
    assert record.getMessage() == (
        "Not recorded because the run has ended: log inside the with block."
    )


def test_an_unknown_outcome_is_an_error_that_lists_the_known_ones() -> None:
    with tracked() as (run, _), pytest.raises(ValueError, match=r"outcome='stopped' .* pruned"):
        run.outcome("stopped")


# --- checks


def test_bad_values_are_counted_and_bad_names_raise(caplog: pytest.LogCaptureFixture) -> None:
    with tracked() as (run, memory):
        for step in range(3):
            run.log_metrics({"good": 1.0, "bad": "1.0"}, step)  # type: ignore[dict-item]
        run.log_metrics({"good": 1.0}, 0.5)  # type: ignore[arg-type]
        run.log_model("missing.pt")
        with pytest.raises(ValueError, match=r"rename it, for example to 'mem/peak_gib'"):
            run.log_metrics({"mem/peak(GiB)": 1.0}, 1)
        with pytest.raises(ValueError, match="Tag name 1 must be a non-empty string"):
            run.set_tags({1: "a"})  # type: ignore[dict-item]
    assert run.refused == {"bad": 3, "good": 1, "missing.pt": 1}
    assert memory.series("good") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 3
    assert all("Further values are counted in run.refused" in text for text in warned)


def test_a_run_records_only_inside_its_block(caplog: pytest.LogCaptureFixture) -> None:
    run = nntrain.track(folder="run")
    for use in (lambda: run.uid, lambda: run.log_metrics({"a": 1.0}, 1)):
        with pytest.raises(RuntimeError, match="The run has not started"):
            use()
    with run:
        pass
    run.log_metrics({"a": 1.0}, 1)
    run.set_tags({"a": "b"})
    assert read_journal("run").metrics == {}
    (record,) = caplog.records
    assert record.getMessage() == (
        "Not recorded because the run has ended: log inside the with block."
    )
    with pytest.raises(RuntimeError, match="This run was already started"), run:
        pass


def test_secrets_reach_neither_the_journal_nor_the_tracker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", "T0KENT0KEN")
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key", SECRET, "--lr=0.1"])
    params = {"api_key": SECRET, "db": {"password": "P4SSW0RD"}, "lr": 0.1}
    tags = {"note": f"with {SECRET}", "internal": "x INTERNAL-17 y"}
    with (
        suppress(ValueError),
        tracked(params=params, tags=tags, redact=[r"INTERNAL-\d+"], name=SECRET) as (run, memory),
    ):
        run.set_tags({"password": "other", "text": "T0KENT0KEN and P4SSW0RD"})
        raise ValueError(f"login with {SECRET} failed")
    for secret in (SECRET, "T0KENT0KEN", "P4SSW0RD", "INTERNAL-17"):
        assert secret.encode() not in Path("run/journal.jsonl").read_bytes()
    assert memory.run.params == {"api_key": "***", "db.password": "***", "lr": 0.1}
    assert memory.run.tags["nntrain.message"] == "ValueError: login with *** failed"
    assert memory.run.tags["nntrain.command"].endswith("--api-key '***' --lr=0.1")
    assert memory.run.tags["text"] == "*** and ***"


def test_an_invalid_pattern_for_secrets_raises() -> None:
    with pytest.raises(ConfigError, match="redact"):
        nntrain.track(redact=["("])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 3}, "name=3 must be a string."),
        ({"group": 3}, "group=3 must be a string."),
        ({"params": [1]}, "params=[1] must be a mapping, for example {'lr': 0.1}."),
        ({"tags": "x"}, "tags='x' must be a mapping, for example {'data': 'digits'}."),
    ],
)
def test_an_argument_of_the_wrong_type_raises_and_writes_nothing(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError) as caught, nntrain.track(folder="run", **options):
        pass
    assert str(caught.value) == message
    assert not Path("run").exists()


def test_metrics_and_tags_other_than_mappings_raise() -> None:
    with tracked() as (run, _):
        with pytest.raises(TypeError, match=r"log_metrics expects a mapping .* but got 'a'\."):
            run.log_metrics("a", 1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="tags='x' must be a mapping"):
            run.set_tags("x")  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["file", "file/run", "/proc/run"])
def test_a_folder_that_cannot_be_created_raises(folder: str) -> None:
    Path("file").write_text("content")
    path = Path(folder).absolute()
    with (
        pytest.raises(OSError, match=rf"^folder={path} cannot be created \(.+\): choose another"),
        nntrain.track(folder=folder),
    ):
        pass
    assert Path("file").read_text() == "content"


def test_a_run_that_cannot_be_started_leaves_no_journal_and_can_be_started_later() -> None:
    @dataclass(frozen=True)
    class Broken(MemoryTracker):
        def __getattribute__(self, name: str) -> Any:
            if name == "system_metrics" and not Path("mended").exists():
                raise ValueError("broken")
            return super().__getattribute__(name)

    run = nntrain.track(Broken(), folder="run", shipper=Offline())
    with pytest.raises(ValueError, match="broken"), run:
        pass
    assert not Path("run/journal.jsonl").exists()
    Path("mended").touch()
    with run:
        pass
    assert read_journal("run").end is not None


def test_finish_inside_the_block_raises_and_the_run_continues() -> None:
    with tracked() as (run, memory):
        with pytest.raises(RuntimeError) as caught:
            run.finish()
        run.log_metrics({"a": 1.0}, 1)
    assert str(caught.value) == (
        "finish() was called before the run ended: call it after the with block."
    )
    assert memory.series("a") == [(1, 1.0)]


# --- trackers


def names(trackers: Any) -> list[str]:
    with nntrain.track(trackers, folder="run", shipper=Offline()):
        pass
    return list(read_journal("run").trackers)


@pytest.mark.parametrize(
    ("trackers", "expected"),
    [
        (MLflowTracker(), ["mlflow"]),
        ([MLflowTracker(), WandbTracker()], ["mlflow", "wandb"]),
        ((MemoryTracker(), MemoryTracker()), ["memory", "memory_2"]),
        ({"team": MLflowTracker()}, ["team"]),
        ([], []),
    ],
    ids=["one", "a list", "two trackers of the same class", "a mapping", "none"],
)
def test_trackers_are_named_after_their_class_or_by_the_caller(
    trackers: Any, expected: list[str]
) -> None:
    assert names(trackers) == expected


@pytest.mark.parametrize("trackers", [MLflowTracker, "mlflow", [None], {"a": 1}], ids=repr)
def test_objects_other_than_trackers_raise(trackers: Any) -> None:
    with pytest.raises(TypeError, match=r"tracker"):
        nntrain.track(trackers)


def test_a_tracker_name_that_is_not_a_valid_file_name_raises() -> None:
    with pytest.raises(ValueError, match="Tracker name 'a/b' must consist of letters"):
        nntrain.track({"a/b": MemoryTracker()})


def test_several_trackers_get_the_same_run() -> None:
    both: list[Tracker] = [MemoryTracker(), MemoryTracker()]
    with nntrain.track(both, shipper=InProcess()) as run:
        run.log_metrics({"a": 1.0}, 1)
    for tracker in both:
        assert isinstance(tracker, MemoryTracker)
        assert tracker.series("a") == [(1, 1.0)]
    assert run.folder.is_relative_to(Path("outputs").absolute())


# --- resuming


def series(record: RunRecord, key: str) -> list[tuple[int, float]]:
    found = record.metrics[key]
    return list(zip(found.step.tolist(), found.value.tolist(), strict=True))


@pytest.mark.parametrize("folder", [None, "elsewhere"])
def test_a_resumed_run_continues_from_the_checkpoint_without_duplicate_points(
    folder: str | None,
) -> None:
    memory = MemoryTracker()
    with (
        suppress(KeyboardInterrupt),
        tracked(memory=memory, name="mine", params={"lr": 0.1, "bs": 8}) as (first, _),
    ):
        for step in range(1, 6):
            first.log_metrics({"a": float(step)}, step)
        raise KeyboardInterrupt
    options = {"resume": first.folder, "resume_step": 3, "params": {"lr": 0.2}}
    with tracked(folder, memory=memory, **options) as (second, _):  # type: ignore[arg-type]
        second.log_table("t", ["a"], [[1]])
        for step in range(4, 8):
            second.log_metrics({"a": float(step)}, step)
    assert second.uid == first.uid
    assert list(memory.runs) == [first.uid]
    assert second.folder == Path(folder or "run").absolute()
    expected = [(step, float(step)) for step in range(1, 8)]
    assert sorted(memory.series("a")) == expected
    record = read_journal(second.folder)
    assert series(record, "a") == expected
    assert (record.run.name, record.run.params) == ("mine", {"lr": 0.2, "bs": 8})
    assert [one["step"] for one in records(folder or "run") if one["kind"] == "table"] == [3]
    assert memory.run.end is not None
    assert memory.run.end.reason is StopReason.COMPLETED
    if folder:
        assert read_journal("run").continued_by == str(second.folder / "journal.jsonl")


def test_without_a_step_a_resumed_run_keeps_all_points() -> None:
    memory = MemoryTracker()
    with tracked(memory=memory) as (run, _):
        run.log_metrics({"a": 1.0}, 5)
    with tracked(memory=memory, resume="run") as (run, _):
        run.log_table("t", ["a"], [[1]])
        run.log_metrics({"a": 2.0}, 6)
    assert memory.series("a") == [(5, 1.0), (6, 2.0)]
    assert [one["step"] for one in records("run") if one["kind"] == "table"] == [5]


def test_a_folder_without_a_run_cannot_be_resumed() -> None:
    with pytest.raises(FileNotFoundError, match="resume=nowhere must be the folder of a run"):
        nntrain.track(resume="nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume_step": 3}, "resume_step needs resume: pass resume=FOLDER"),
        ({"resume": "run", "resume_step": -1}, "resume_step=-1 must be an integer"),
    ],
)
def test_a_resume_step_without_a_run_or_with_a_bad_value_raises(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        nntrain.track(**options)


def test_the_journal_of_another_run_is_not_overwritten() -> None:
    for folder in ("run", "other"):
        with nntrain.track(folder=folder) as run:
            run.log_metrics({"a": 1.0}, 1)
    before = Path("other/journal.jsonl").read_bytes()
    for options in ({}, {"resume": "run"}):
        with (
            pytest.raises(FileExistsError, match="is the journal of another run"),
            nntrain.track(folder="other", **options),
        ):
            pass
    assert Path("other/journal.jsonl").read_bytes() == before


def test_a_run_that_another_process_still_writes_cannot_be_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_writer, "RESUME_WAIT_S", 0.2)
    with nntrain.track(folder="run") as run:
        with (
            pytest.raises(JournalInUseError, match="is still being written by another process"),
            nntrain.track(resume="run"),
        ):
            pass
        run.log_metrics({"a": 1.0}, 1)
    assert series(read_journal("run"), "a") == [(1, 1.0)]
