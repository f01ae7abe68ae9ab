"""The tracker callback records the whole fit and does not change the results."""

import itertools
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nntrain import Callback, CancelFitException, Event, Learner, StopReason
from nntrain.callbacks import Checkpoint, StopOnNaN
from nntrain.config.errors import ConfigError
from nntrain.config.redact import Redactor
from nntrain.core.smoothing import smooth
from nntrain.integrations.callback import TrackerCallback
from nntrain.integrations.journal.records import JOURNAL, lines, read_journal
from nntrain.integrations.journal.writer import JournalInUseError, JournalWriter
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.shipping.client import InProcess
from nntrain.integrations.tracker import OUTCOME_TAG, ModelFile, RunInfo
from nntrain.schedule import OneCycle
from nntrain.statistics import ActivationStats
from nntrain.testing import RaiseAt, counted_reads
from tests.common.runs import InterruptAt
from tests.common.toys import Lists, digits_lists, digits_mlp, regression_lists, toy_learner

CrossEntropy = torch.nn.functional.cross_entropy


def callback(folder: str = "run", **kwargs: Any) -> tuple[TrackerCallback, MemoryTracker]:
    """Returns a callback that records in memory, and its tracker."""
    memory = MemoryTracker()
    return TrackerCallback({"memory": memory}, folder, shipper=InProcess(), **kwargs), memory


def tracked(options: dict[str, Any] | None = None, **kwargs: Any) -> tuple[Learner, MemoryTracker]:
    """Returns a tracked toy learner; `options` are passed to the callback."""
    tracking, memory = callback(**(options or {}))
    return toy_learner(cbs=[tracking, *kwargs.pop("cbs", ())], **kwargs), memory


@pytest.mark.parametrize("n_train", [8, 40, 1100])
def test_every_batch_is_recorded_once_in_order(n_train: int) -> None:
    learn, memory = tracked(dls=regression_lists(n_train=n_train, bs=4), cbs=[OneCycle()])
    learn.fit(6)
    steps = list(range(1, 6 * len(learn.dls.train) + 1))
    assert memory.series("batch/loss") == list(
        zip(steps, learn.recorder.losses.tolist(), strict=True)
    )
    assert memory.series("lr/0") == list(zip(steps, learn.recorder.lrs["0"], strict=True))
    assert memory.series("mom/0") == list(zip(steps, learn.recorder.moms["0"], strict=True))
    assert [value for _, value in memory.series("batch/loss_smooth")] == pytest.approx(
        smooth(learn.recorder.losses).tolist()
    )


def test_finish_during_a_fit_raises() -> None:
    tracking, memory = callback()

    class Finish(Callback):
        def after_epoch(self, learn: Learner) -> None:
            tracking.finish()

    with pytest.raises(RuntimeError, match=r"finish\(\) was called .*: call it after learn\.fit\."):
        toy_learner(cbs=[tracking, Finish()]).fit(1)
    assert memory.run.end is not None


def test_batches_are_written_in_groups_of_64_and_at_the_end_of_an_epoch() -> None:
    learn, _ = tracked(dls=regression_lists(n_train=600, bs=4))
    learn.fit(2)
    text = Path("run/journal.jsonl").read_text()
    assert text.count('"batch/loss":') == 2 * 3
    assert text.count('"kind":"start"') == text.count('"kind":"end"') == 1


class SlowStep(Callback):
    """Sleeps in each batch, then counts the batches in the journal."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: list[int] = []

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            time.sleep(self.seconds)
            written = read_journal("run").metrics.get("batch/loss")
            self.seen.append(0 if written is None else len(written.step))


def test_slow_batches_are_written_at_least_once_a_second() -> None:
    slow = SlowStep(0.6)
    learn, _ = tracked(cbs=[slow])
    learn.fit(1)
    assert [n - seen for n, seen in enumerate(slow.seen, start=1)][1:] == [0, 0, 0, 0]


def test_the_row_of_an_epoch_is_recorded_at_its_last_batch() -> None:
    learn, memory = tracked()
    learn.fit(2)
    n_batch = len(learn.dls.train)
    for name in (
        "epoch",
        "train/loss",
        "valid/loss",
        "time/epoch_s",
        "time/batch_ms",
        "time/data_wait_ms",
    ):
        expected = [(n_batch * (i + 1), row[name]) for i, row in enumerate(learn.recorder.rows)]
        assert memory.series(name) == expected


def activations(every: int = 4) -> tuple[Learner, MemoryTracker]:
    tracking, memory = callback()
    cbs = [tracking, ActivationStats(every=every)]
    return Learner(
        digits_mlp(), digits_lists(), CrossEntropy, lr=0.1, device="cpu", cbs=cbs
    ), memory


def test_statistics_are_recorded_at_the_sampled_batches() -> None:
    learn, memory = activations()
    learn.fit(1)
    n_batch = len(list(learn.dls.train))
    steps = [step for step, _ in memory.series("act/0/mean")]
    assert steps[0] == 1
    assert all(b - a == 4 for a, b in itertools.pairwise(steps))
    assert n_batch - steps[-1] < 4
    recorded = {key.rsplit("/", 1)[1] for key in memory.run.keys if key.startswith("act/0/")}
    assert recorded == {"mean", "std", "dead_frac", "max_abs"}


def test_the_last_histogram_of_each_layer_is_recorded_once_an_epoch() -> None:
    learn, memory = activations()
    learn.fit(2)
    n_batch = len(learn.dls.train)
    assert [row.step for row, _, _ in memory.run.histograms] == [n_batch, 2 * n_batch]
    _, edges, counts = memory.run.histograms[-1]
    assert list(counts) == ["act/0", "act/1", "act/2"]
    assert all(len(values) == len(edges) - 1 for values in counts.values())
    assert sum(counts["act/0"]) == 64 * 50


def test_tracking_does_not_read_the_device_per_batch() -> None:
    counts = []
    for n_train in (80, 160):
        learn, _ = tracked({"folder": f"run{n_train}"}, dls=regression_lists(n_train=n_train))
        with counted_reads() as reads:
            learn.fit(2)
        counts.append(reads.n)
    assert counts[0] == counts[1] > 0


def test_losses_and_weights_are_bit_for_bit_the_same_with_and_without_tracking() -> None:
    with_tracker, _ = tracked()
    without = toy_learner()
    with_tracker.fit(3)
    without.fit(3)
    assert torch.equal(with_tracker.recorder.losses, without.recorder.losses)
    assert torch.equal(with_tracker.model.weight, without.model.weight)


@pytest.mark.parametrize(
    "reason",
    [reason for reason in StopReason if reason not in (StopReason.COMPLETED, StopReason.ERROR)],
)
def test_the_run_of_a_cancelled_fit_ends_with_its_reason(reason: StopReason) -> None:
    learn, memory = tracked(
        cbs=[RaiseAt(Event.AFTER_BATCH, CancelFitException("enough", reason=reason), iteration=2)]
    )
    learn.fit(2)
    assert memory.run.end.reason is reason
    assert memory.run.tags == {OUTCOME_TAG: str(reason), "nntrain.message": "enough"}
    assert len(memory.series("batch/loss")) == 3


@pytest.mark.parametrize(
    "event", [Event.BEFORE_EPOCH, Event.AFTER_PRED, Event.AFTER_STEP, Event.AFTER_FIT]
)
def test_an_error_anywhere_ends_the_run_as_an_error_with_all_its_batches(event: Event) -> None:
    learn, memory = tracked(cbs=[RaiseAt(event, ValueError("boom"))])
    with pytest.raises(ValueError, match="boom"):
        learn.fit(1)
    assert memory.run.end.reason is StopReason.ERROR
    assert "\nValueError: boom\n" in memory.run.tags.pop("nntrain.traceback")
    assert memory.run.tags == {OUTCOME_TAG: "error", "nntrain.message": "ValueError: boom"}
    assert len(memory.series("batch/loss")) == len(learn.recorder.losses)


def test_the_run_of_an_interrupted_fit_ends_as_interrupted() -> None:
    learn, memory = tracked(cbs=[RaiseAt(Event.AFTER_BATCH, KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    assert memory.run.end.reason is StopReason.INTERRUPTED


def test_a_fit_that_fails_before_its_run_starts_leaves_nothing() -> None:
    learn, memory = tracked(cbs=[RaiseAt(Event.BEFORE_FIT, ValueError("too early"))])
    with pytest.raises(ValueError, match="too early"):
        learn.fit(1)
    assert memory.runs == {}
    assert not Path("run").exists()


def test_a_nan_loss_is_recorded_as_nan_and_the_run_diverged() -> None:
    dls = regression_lists()
    batches = list(dls.train)
    batches[3] = (batches[3][0] * float("nan"), batches[3][1])
    learn, memory = tracked(dls=Lists(batches, dls.valid), cbs=[StopOnNaN()])
    result = learn.fit(2)
    assert result.reason is StopReason.DIVERGED
    assert [math.isnan(value) for _, value in memory.series("batch/loss")] == [
        False,
        False,
        False,
        True,
    ]
    assert memory.run.end.reason is StopReason.DIVERGED
    assert torch.isfinite(learn.model.weight).all()


def test_validation_and_lr_find_are_not_tracked() -> None:
    learn, memory = tracked()
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=20)
    assert memory.runs == {}
    assert not Path("run").exists()


class Drawing:
    """A fake figure with a `savefig` method."""

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        Path(fname).write_bytes(b"drawn")


def test_existing_figures_models_files_and_logs_are_recorded(tmp_path: Path) -> None:
    for name in ("best.pt", "notes.txt", "console.log"):
        (tmp_path / name).write_text(name)
    models = [
        ModelFile(tmp_path / name, name, ("best",), {"_target_": "m"})
        for name in ("best.pt", "missing.pt")
    ]
    files = {
        "artifacts": [tmp_path / "notes.txt", tmp_path / "missing"],
        "logs": [tmp_path / "console.log", tmp_path / "none"],
    }
    figures = {"plots/a.png": lambda learn: Drawing(), "none.png": lambda learn: None}
    learn, memory = tracked({"models": models, "figures": figures, **files})
    learn.fit(1)
    assert {name: model.aliases for name, model in memory.run.models.items()} == {
        "best.pt": ("best",)
    }
    assert memory.run.artifacts == {"notes.txt": b"notes.txt", "console.log": b"console.log"}
    assert memory.run.figures == {"plots/a.png": b"drawn"}


def test_logs_of_a_failed_fit_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("said")
    learn, memory = tracked(
        {"logs": [tmp_path / "console.log"]}, cbs=[RaiseAt(Event.AFTER_STEP, ValueError("boom"))]
    )
    with pytest.raises(ValueError, match="boom"):
        learn.fit(1)
    assert memory.run.artifacts == {"console.log": b"said"}


class Logs(Callback):
    """A user's callback that logs."""

    def after_epoch(self, learn: Learner) -> None:
        learn.tracker.log_metrics({"mine/a": 1.5, "mine/b": torch.tensor(2.5)})
        learn.tracker.log_table("preds.json", ["i", "label"], [[1, "x"]])
        learn.tracker.log_figure(Drawing(), "mine.png")
        Path("report.txt").write_text(f"epoch {learn.epoch}")
        learn.tracker.log_artifact("report.txt", "reports/last.txt", ["best"])


def test_values_logged_by_a_users_callback_are_recorded() -> None:
    learn, memory = tracked(cbs=[Logs()])
    learn.fit(2)
    n_batch = len(learn.dls.train)
    assert memory.series("mine/a") == [(n_batch, 1.5), (2 * n_batch, 1.5)]
    assert memory.series("mine/b") == [(n_batch, 2.5), (2 * n_batch, 2.5)]
    assert memory.run.tables["preds.json"].rows == [[1, "x"]]
    assert memory.run.artifacts == {"reports/last.txt": b"epoch 1"}


def test_values_logged_after_the_fit_are_dropped_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learn, memory = tracked()
    learn.fit(1)
    learn.tracker.log_metrics({"late": 1.0})
    learn.tracker.log_metrics({"late": 2.0})
    assert [record.message for record in caplog.records] == [
        "Not recorded because the run has ended: log in after_fit or earlier."
    ]
    assert "late" not in memory.run.keys


def test_a_second_fit_continues_the_same_run() -> None:
    learn, memory = tracked()
    learn.fit(1)
    learn.fit(2)
    assert list(memory.runs) == [memory.run.id]
    assert [step for step, _ in memory.series("batch/loss")] == list(
        range(1, 3 * len(learn.dls.train) + 1)
    )
    assert memory.run.end.reason is StopReason.COMPLETED


def test_a_later_fit_that_completes_does_not_keep_the_message_of_a_failed_fit() -> None:
    learn, memory = tracked(cbs=[RaiseAt(Event.AFTER_BATCH, ValueError("boom"))])
    with pytest.raises(ValueError, match="boom"):
        learn.fit(1)
    assert "boom" in memory.run.tags["nntrain.traceback"]
    learn.remove_cb(RaiseAt)
    learn.fit(1)
    assert memory.run.tags == {
        OUTCOME_TAG: "completed",
        "nntrain.message": "",
        "nntrain.traceback": "",
    }


def test_a_folder_with_the_journal_of_another_run_is_refused() -> None:
    learn, _ = tracked()
    learn.fit(1)
    before = Path("run/journal.jsonl").read_bytes()
    other, _ = tracked()
    with pytest.raises(
        FileExistsError,
        match="the journal of another run: choose another folder, or resume that run",
    ):
        other.fit(1)
    assert Path("run/journal.jsonl").read_bytes() == before


def test_a_journal_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    with (
        JournalWriter(tmp_path / "journal.jsonl"),
        pytest.raises(JournalInUseError, match="being written by another process"),
    ):
        JournalWriter(tmp_path / "journal.jsonl")


@pytest.mark.parametrize("folder", ["run", "elsewhere"])
@pytest.mark.parametrize(("epoch", "iteration"), [(1, 2), (2, 4)])
def test_a_resumed_fit_continues_the_same_run_without_duplicate_points(
    folder: str, epoch: int, iteration: int
) -> None:
    alone, expected = tracked({"folder": "alone"})
    alone.fit(4)

    tracking, memory = callback("run")
    first = toy_learner(
        cbs=[tracking, Checkpoint("checkpoints", every_epoch=1), InterruptAt(epoch, iteration)]
    )
    first.fit(4)
    again = TrackerCallback({"memory": memory}, folder, shipper=InProcess())
    second = toy_learner(cbs=[again, Checkpoint("checkpoints", resume="checkpoints")])
    second.fit(4)
    assert list(memory.runs) == [tracking.uid] == [again.uid]
    for key in ("batch/loss", "batch/loss_smooth", "lr/0", "train/loss", "valid/loss"):
        assert memory.series(key) == expected.series(key), key
        written = read_journal(folder).metrics[key]
        assert list(
            zip(written.step.tolist(), written.value.tolist(), strict=True)
        ) == expected.series(key)
    assert memory.run.end.reason is StopReason.COMPLETED
    assert folder == "run" or read_journal("run").continued_by == str(again.journal)


def test_points_after_the_checkpoint_of_a_killed_run_are_not_duplicated() -> None:
    alone, expected = tracked({"folder": "alone"})
    alone.fit(3)

    tracking, memory = callback("run")
    # The process dies in epoch 1. Its records were delivered; its last checkpoint is from epoch 0.
    killed = RaiseAt(Event.AFTER_BATCH, OSError("killed"), epoch=1, iteration=3)
    first = toy_learner(cbs=[tracking, Checkpoint("checkpoints"), killed])
    with pytest.raises(OSError, match="killed"):
        first.fit(3)
    assert len(memory.series("batch/loss")) == 9
    again = TrackerCallback({"memory": memory}, "new", shipper=InProcess())
    toy_learner(cbs=[again, Checkpoint("checkpoints", resume="checkpoints")]).fit(3)
    assert memory.series("batch/loss") == expected.series("batch/loss")
    assert memory.series("valid/loss") == expected.series("valid/loss")


def test_secrets_reach_neither_params_nor_messages_nor_the_journal() -> None:
    redactor = Redactor(config={"api_key": "S3NT1NEL"})
    info = RunInfo(
        params={"api_key": "S3NT1NEL", "url": "http://u:S3NT1NEL@host"}, tags={"note": "S3NT1NEL"}
    )
    error = ValueError("login with S3NT1NEL failed")
    learn, memory = tracked(
        {"redactor": redactor, "info": info}, cbs=[RaiseAt(Event.AFTER_STEP, error)]
    )
    with pytest.raises(ValueError, match="failed"):
        learn.fit(1)
    assert memory.run.tags["nntrain.message"] == "ValueError: login with *** failed"
    assert memory.run.params["api_key"] == "***"
    assert "login with *** failed" in memory.run.tags["nntrain.traceback"]
    assert b"S3NT1NEL" not in Path("run/journal.jsonl").read_bytes()


def test_texts_params_and_the_name_are_stored_with_the_run() -> None:
    learn, memory = tracked(
        {"info": RunInfo(texts={"config.yaml": "lr: 1"}, params={"lr": 1}, name="mine")}
    )
    learn.fit(1)
    assert memory.run.texts == {"config.yaml": "lr: 1"}
    assert (memory.run.params, memory.run.info.name) == ({"lr": 1}, "mine")


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_tracking_may_be_added_or_removed_on_resume(before: bool, after: bool) -> None:
    tracking, memory = callback()
    first = toy_learner(
        cbs=[*([tracking] if before else []), Checkpoint("checkpoints"), InterruptAt(1, 2)]
    )
    first.fit(3)
    second = toy_learner(
        cbs=[*([tracking] if after else []), Checkpoint("checkpoints", resume="checkpoints")]
    )
    assert second.fit(3).reason is StopReason.COMPLETED
    n_batch = len(second.dls.train)
    steps = [step for step, _ in memory.series("batch/loss")]
    assert steps == list(range(1, n_batch + 4) if before else range(n_batch + 4, 3 * n_batch + 1))


def test_batches_are_written_together_while_the_clock_on_the_wall_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(1)
    monkeypatch.setattr(time, "time_ns", lambda: next(hours) * 3600 * 10**9)
    learn, _ = tracked({"folder": tmp_path / "run"})
    learn.fit(1)
    records = [line.record for line in lines(tmp_path / "run" / JOURNAL) if line.record]
    groups = [one for one in records if "batch/loss" in one.get("values", ())]
    assert [len(group["step"]) for group in groups] == [learn.train_iter]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"uid": "a"},
        {"uid": [1], "journal": "a"},
        {"uid": "../../x", "journal": "a"},
        {"uid": "a' OR 1=1", "journal": "a"},
        {"uid": "", "journal": "a"},
        {"uid": "\ud800", "journal": "a"},
        {"uid": "a", "journal": 3},
        {"uid": "a", "journal": "a\0"},
        {"uid": "a", "journal": None},
    ],
)
def test_a_state_of_a_foreign_checkpoint_is_refused_in_one_sentence(state: dict[str, Any]) -> None:
    tracking, _ = callback()
    with pytest.raises(ValueError, match=r"is not the (id of a run|path of a journal)"):
        tracking.load_state_dict(state)


def test_a_run_that_cannot_be_resumed_is_named_in_one_sentence(tmp_path: Path) -> None:
    learn, _ = tracked()
    learn.fit(1)
    again, _ = callback("again")
    uid = read_journal("run").run.uid
    again.load_state_dict({"uid": uid, "journal": str(tmp_path / "run" / JOURNAL)})
    (tmp_path / "run/delivery/lock").unlink(missing_ok=True)
    (tmp_path / "run/delivery/lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match=r"cannot be resumed: .*lock is a symbolic link"):
        toy_learner(cbs=[again]).fit(1)
    assert not (tmp_path / "victim").exists()
