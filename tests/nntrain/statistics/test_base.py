"""All statistics sample, drain and resume in the same way, without device reads or side effects."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from nntrain import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelTrainException,
    Event,
    Learner,
)
from nntrain.core.batch import tensors_in
from nntrain.statistics import ActivationStats, GradientStats, Statistics
from nntrain.testing import RaiseAt, counted_reads
from tests.nntrain.statistics.toys import (
    EVERY_KIND,
    DrainAt,
    assert_same_history,
    digits_learner,
    n_hooks,
)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"buffer_rows": 0}, {"unit_dim": 2}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ActivationStats(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_third_batch_is_sampled_across_epochs(kind: type[Statistics]) -> None:
    stats, all_of_them = kind(every=3), kind()
    digits_learner(stats, all_of_them).fit(2)
    assert stats.history().steps == [1, 4, 7, 10, 13, 16, 19]
    assert all_of_them.history().steps == list(range(1, 21))
    for name, values in all_of_them.history().values.items():
        assert torch.equal(stats.history().values[name], values[::3])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_validation_is_not_watched(kind: type[Statistics]) -> None:
    stats = kind()
    learn = digits_learner(stats)
    learn.fit(1)
    rows = stats.drain()
    learn.validate()
    learn.get_preds()
    assert len(rows) == 10
    assert stats.drain() == []


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_full_buffer_loses_nothing(kind: type[Statistics]) -> None:
    small, large = kind(buffer_rows=3), kind()
    digits_learner(small, large).fit(2)
    assert len(large.history().steps) == 20
    assert_same_history(small.history(), large.history())
    if isinstance(small, ActivationStats) and isinstance(large, ActivationStats):
        assert torch.equal(small.histograms(), large.histograms())
    assert small.drain() == large.drain()


@pytest.mark.parametrize("event", [Event.AFTER_BATCH, Event.AFTER_EPOCH, Event.CLEANUP_FIT])
@pytest.mark.parametrize("buffer_rows", [1, 3, 256])
def test_drained_rows_are_new_each_time_and_complete_in_the_end(
    event: Event, buffer_rows: int
) -> None:
    stats, reference = ActivationStats(buffer_rows=buffer_rows), ActivationStats()
    drained = DrainAt(stats, event)
    digits_learner(stats, reference, drained).fit(2)
    assert [row for chunk in drained.chunks for row in chunk] == reference.drain()
    assert stats.drain() == []
    assert_same_history(stats.history(), reference.history())


def test_rows_can_be_read_at_any_time_and_a_new_fit_starts_a_new_record() -> None:
    stats = ActivationStats(every=4)
    assert (stats.drain(), stats.history().steps, len(stats.histograms())) == ([], [], 0)
    learn = digits_learner(stats)
    learn.fit(1)
    assert [step for step, _ in stats.drain()] == [1, 5, 9]
    learn.fit(1)
    assert stats.history().steps == [11, 13, 17]


def test_the_sampling_position_is_restored() -> None:
    stats, resumed = GradientStats(every=7), GradientStats(every=7)

    class Resume(Callback):
        order = 80

        def before_fit(self, learn: Learner) -> None:
            learn.train_iter = 10
            resumed.load_state_dict(stats.state_dict())

    digits_learner(stats).fit(1)
    digits_learner(resumed, Resume()).fit(1)
    assert stats.history().steps == [1, 8]
    assert resumed.history().steps == [15]


def test_batches_read_nothing_from_the_device() -> None:
    reads = []
    for n_batch in (10, 20):
        stats = [kind() for kind in EVERY_KIND]
        learn = digits_learner(*stats, n_batch=n_batch)
        with counted_reads() as counter:
            learn.fit(1)
        reads.append(counter.n)
        assert [len(one.drain()) for one in stats] == [n_batch] * 4
    assert reads[0] == reads[1]


def test_a_drain_is_one_copy() -> None:
    stats = ActivationStats()
    drained = DrainAt(stats, Event.AFTER_FIT)
    counts = []
    for cbs in ((stats,), (stats, drained)):
        learn = digits_learner(*cbs)
        with counted_reads() as counter:
            learn.fit(1)
        counts.append(counter.n)
    # Rows that `drain` has copied are not copied again at the end of the fit. The one extra read
    # is made when `drain` converts its rows to floats.
    assert counts[1] == counts[0] + 1


def test_training_is_bit_for_bit_the_same_with_all_statistics() -> None:
    def model() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(64, 30),
            nn.BatchNorm1d(30),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(30, 10),
        )

    runs = []
    for cbs in ([], [kind() for kind in EVERY_KIND]):
        learn = digits_learner(*cbs, model=model(), opt_func=torch.optim.Adam)
        torch.manual_seed(2)
        learn.fit(2)
        runs.append((learn.recorder.losses, learn.model.state_dict(), torch.get_rng_state()))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())
    assert torch.equal(runs[0][2], runs[1][2])


@pytest.mark.parametrize(
    "event",
    [Event.BEFORE_BATCH, Event.AFTER_PRED, Event.AFTER_LOSS, Event.BEFORE_STEP, Event.AFTER_EPOCH],
)
@pytest.mark.parametrize(
    "err",
    [
        CancelBatchException(),
        CancelTrainException(),
        CancelEpochException(),
        CancelFitException(),
        ValueError("no"),
        KeyboardInterrupt(),
    ],
    ids=lambda err: type(err).__name__,
)
@pytest.mark.parametrize("order", [-5, 30])
def test_hooks_and_buffers_are_removed_however_the_fit_ends(
    event: Event, err: BaseException, order: int
) -> None:
    stats = [kind() for kind in EVERY_KIND]
    raising = RaiseAt(event, err)
    raising.order = order  # type: ignore[misc]
    learn = digits_learner(*stats, raising, n_batch=3)
    with suppress(ValueError, KeyboardInterrupt, CancelException):
        learn.fit(2)
    assert raising.raised
    assert n_hooks(learn.model) == 0
    for one in stats:
        assert one._buffer is not None
        assert one._buffer._rows is None
        assert one._watched == []
        assert not sum(tensor.numel() for tensor in tensors_in(vars(one)))
        assert len(one.drain()) == len(one.history().steps)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_cleanup_tolerates_a_fit_that_never_started(kind: type[Statistics]) -> None:
    stats = kind()
    learn = digits_learner(stats, RaiseAt(Event.BEFORE_FIT, ValueError("no")))
    learn.cbs = sorted(learn.cbs, key=lambda cb: isinstance(cb, Statistics))
    with pytest.raises(ValueError, match="no"):
        learn.fit(1)
    assert stats.drain() == []
