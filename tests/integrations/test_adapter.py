"""What the adapter sends of a fit, and that sending changes nothing."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nntrain import CancelFitException, Event, Learner, StopReason
from nntrain.callbacks import StopOnNaN
from nntrain.integrations.adapter import OUTCOME_TAG, TrackerCallback
from nntrain.integrations.base import RunInfo, Tracker
from nntrain.recorder import smooth
from nntrain.schedule import OneCycle
from nntrain.statistics import ActivationStats
from tests.common.memory_tracker import MemoryTracker
from tests.common.spies import RaiseAt, counted_reads
from tests.common.toys import Lists, digits_lists, digits_mlp, regression_lists, toy_learner

CrossEntropy = torch.nn.functional.cross_entropy


def tracked(**kwargs: Any) -> tuple[Learner, MemoryTracker]:
    """A toy learner with a tracker."""
    tracker = MemoryTracker()
    options = {name: kwargs.pop(name) for name in ("flush_every", "artifacts", "figures", "info") if name in kwargs}
    cbs = [TrackerCallback(tracker, **options), *kwargs.pop("cbs", ())]
    return toy_learner(cbs=cbs, **kwargs), tracker


def test_the_memory_tracker_is_a_tracker() -> None:
    assert isinstance(MemoryTracker(), Tracker)


@pytest.mark.parametrize("flush_every", [1, 3, 1000])
def test_every_batch_is_recorded_once_in_order(flush_every: int) -> None:
    learn, tracker = tracked(cbs=[OneCycle()], flush_every=flush_every)
    learn.fit(3)
    n_batch = 3 * len(learn.dls.train)
    steps = list(range(1, n_batch + 1))
    assert tracker.series("batch/loss") == list(zip(steps, learn.recorder.losses.tolist(), strict=True))
    assert tracker.series("lr/0") == list(zip(steps, learn.recorder.lrs["0"], strict=True))
    assert tracker.series("mom/0") == list(zip(steps, learn.recorder.moms["0"], strict=True))
    assert [value for _, value in tracker.series("batch/loss_smooth")] == pytest.approx(smooth(learn.recorder.losses).tolist())


def test_rows_are_sent_in_groups() -> None:
    learn, tracker = tracked(dls=regression_lists(n_train=400, bs=8))
    learn.fit(2)
    assert tracker.calls == 2


def test_the_epochs_row_is_recorded_at_the_last_batch_of_the_epoch() -> None:
    learn, tracker = tracked()
    learn.fit(2)
    n_batch = len(learn.dls.train)
    for name in ("epoch", "train/loss", "valid/loss", "time/epoch_s", "time/batch_ms", "time/data_wait_ms"):
        expected = [(n_batch * (i + 1), row[name]) for i, row in enumerate(learn.recorder.rows)]
        assert tracker.series(name) == expected


def test_statistics_are_recorded_at_the_batches_that_were_sampled() -> None:
    tracker = MemoryTracker()
    stats = ActivationStats(every=4)
    learn = Learner(digits_mlp(), digits_lists(), CrossEntropy, lr=0.1, device="cpu", cbs=[TrackerCallback(tracker), stats])
    learn.fit(1)
    n_batch = len(list(learn.dls.train))
    steps = [step for step, _ in tracker.series("act/0/mean")]
    assert steps[0] == 1
    assert all(b - a == 4 for a, b in itertools.pairwise(steps))
    assert n_batch - steps[-1] < 4
    assert {key.rsplit("/", 1)[1] for row in tracker.rows for key in row.values if key.startswith("act/0/")} == {
        "mean",
        "std",
        "dead_frac",
        "max_abs",
    }


def test_tracking_reads_nothing_back_per_batch() -> None:
    counts = []
    for n_train in (80, 160):
        learn, _ = tracked(dls=regression_lists(n_train=n_train))
        with counted_reads() as reads:
            learn.fit(2)
        counts.append(reads.n)
    assert counts[0] == counts[1] > 0


def test_losses_and_weights_are_the_same_to_the_last_bit_with_and_without_tracking() -> None:
    with_tracker, _ = tracked(flush_every=2)
    without = toy_learner()
    with_tracker.fit(3)
    without.fit(3)
    assert torch.equal(with_tracker.recorder.losses, without.recorder.losses)
    assert torch.equal(with_tracker.model.weight, without.model.weight)


@pytest.mark.parametrize("reason", [reason for reason in StopReason if reason not in (StopReason.COMPLETED, StopReason.ERROR)])
def test_a_cancelled_fit_is_finished_with_its_reason(reason: StopReason) -> None:
    learn, tracker = tracked(cbs=[RaiseAt(Event.AFTER_BATCH, CancelFitException("enough", reason=reason), iteration=2)])
    learn.fit(2)
    assert tracker.reasons == [reason]
    assert tracker.set_tags == {OUTCOME_TAG: str(reason), "nntrain.message": "enough"}
    assert len(tracker.series("batch/loss")) == 3


@pytest.mark.parametrize("event", [Event.BEFORE_EPOCH, Event.AFTER_PRED, Event.AFTER_STEP, Event.AFTER_FIT])
def test_an_error_anywhere_ends_the_run_as_an_error_with_all_its_batches(event: Event) -> None:
    learn, tracker = tracked(cbs=[RaiseAt(event, ValueError("boom"))])
    with pytest.raises(ValueError, match="boom"):
        learn.fit(1)
    assert tracker.reasons == [StopReason.ERROR]
    assert tracker.set_tags == {OUTCOME_TAG: "error", "nntrain.message": "ValueError: boom"}
    assert len(tracker.series("batch/loss")) == len(learn.recorder.losses)


def test_an_interrupted_fit_is_finished_as_interrupted() -> None:
    learn, tracker = tracked(cbs=[RaiseAt(Event.AFTER_BATCH, KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    assert tracker.reasons == [StopReason.INTERRUPTED]


def test_a_run_that_never_began_is_not_ended() -> None:
    learn, tracker = tracked(cbs=[RaiseAt(Event.BEFORE_FIT, ValueError("too early"))])
    with pytest.raises(ValueError, match="too early"):
        learn.fit(1)
    assert tracker.started == []
    assert tracker.reasons == []


def test_a_nan_loss_is_recorded_as_nan_and_the_run_diverged() -> None:
    dls = regression_lists()
    batches = list(dls.train)
    batches[3] = (batches[3][0] * float("nan"), batches[3][1])
    learn, tracker = tracked(dls=Lists(batches, dls.valid), cbs=[StopOnNaN()])
    result = learn.fit(2)
    assert result.reason is StopReason.DIVERGED
    assert [math.isnan(value) for _, value in tracker.series("batch/loss")] == [False, False, False, True]
    assert tracker.reasons == [StopReason.DIVERGED]
    assert torch.isfinite(learn.model.weight).all()


def test_validation_and_lr_find_are_not_tracked() -> None:
    learn, tracker = tracked()
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=20)
    assert tracker.started == []


def test_figures_and_files_are_kept_when_they_exist(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"x")
    learn, tracker = tracked(
        artifacts=[tmp_path / "best.pt", tmp_path / "missing.pt"],
        figures={"a.png": lambda learn: object(), "none.png": lambda learn: None},
    )
    learn.fit(1)
    assert tracker.files == ["best.pt"]
    assert tracker.figures == ["a.png"]


def test_a_resumed_fit_goes_on_in_the_same_run() -> None:
    learn, tracker = tracked(info=RunInfo(params={"lr": 1}))
    learn.fit(1)
    callback = next(cb for cb in learn.cbs if isinstance(cb, TrackerCallback))
    again, second = tracked()
    other = next(cb for cb in again.cbs if isinstance(cb, TrackerCallback))
    other.load_state_dict(callback.state_dict())
    again.fit(1)
    assert second.started == ["run-1"]
    assert tracker.started == [None]
