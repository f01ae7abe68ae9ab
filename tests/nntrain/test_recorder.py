"""The recorder has fastai's values under the same names, whichever level was cancelled."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelTrainException,
    CancelValidException,
    Event,
    Learner,
    Recorder,
)
from nntrain.testing import RaiseAt
from tests.common.reference import digits_learner, fitted, reference
from tests.common.toys import Lists, regression_lists, toy_learner

REFERENCE = reference("learner")["fits"]


@pytest.mark.parametrize("name", REFERENCE)
def test_losses_of_every_batch_equal_fastais(name: str) -> None:
    assert fitted(name).recorder.losses.tolist() == pytest.approx(
        REFERENCE[name]["losses"], rel=1e-6
    )


@pytest.mark.parametrize("name", REFERENCE)
def test_smooth_losses_of_every_batch_equal_fastais(name: str) -> None:
    """The tolerance is needed because fastai's 1 - 0.98 in float32 is off by 1e-6."""
    assert fitted(name).recorder.smooth_losses.tolist() == pytest.approx(
        REFERENCE[name]["smooth_losses"], rel=3e-6
    )


@pytest.mark.parametrize("name", REFERENCE)
def test_losses_and_metrics_of_every_epoch_equal_fastais(name: str) -> None:
    rows = REFERENCE[name]["rows"]
    expected = [{key.replace("_", "/", 1): value for key, value in row.items()} for row in rows]
    ours = [
        {key: row[key] for key in keys}
        for row, keys in zip(fitted(name).recorder.rows, expected, strict=True)
    ]
    assert ours == [pytest.approx(row, rel=1e-6) for row in expected]


@pytest.mark.parametrize("name", REFERENCE)
def test_weights_after_the_fit_equal_fastais(name: str) -> None:
    for key, value in fitted(name).model.state_dict().items():
        expected = REFERENCE[name]["weights"][key]
        assert value.double().norm().item() == pytest.approx(expected["norm"], rel=1e-6)
        assert value.flatten()[:32].tolist() == pytest.approx(expected["first"], rel=1e-5, abs=1e-7)


def test_a_row_has_these_names() -> None:
    learn = toy_learner(metrics=[nn.functional.l1_loss])
    learn.fit(2)
    assert learn.recorder.metric_names == [
        "epoch",
        "train/loss",
        "train/l1_loss",
        "valid/loss",
        "valid/l1_loss",
        "time/epoch_s",
        "time/batch_ms",
        "time/data_wait_ms",
    ]
    assert [row["epoch"] for row in learn.recorder.rows] == [0.0, 1.0]
    assert all(isinstance(value, float) for value in learn.recorder.row.values())


class Slow:
    """A loader that waits before each batch."""

    def __init__(self, batches: Any, wait_s: float) -> None:
        self.batches, self.wait_s = batches, wait_s

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        for batch in self.batches:
            time.sleep(self.wait_s)
            yield batch


def test_times_are_in_the_units_of_their_names() -> None:
    lists = regression_lists()
    learn = toy_learner(Lists(Slow(lists.train, 0.02), lists.valid))
    learn.fit(1)
    row = learn.recorder.row
    assert 20 <= row["time/data_wait_ms"] < 2000
    assert 0.1 <= row["time/epoch_s"] < 10
    assert 0 < 5 * (row["time/batch_ms"] + row["time/data_wait_ms"]) / 1000 < row["time/epoch_s"]


def names_of(rows: list[dict[str, float]]) -> list[list[str]]:
    return [[name for name in row if not name.startswith("time/")] for row in rows]


ALL = ["epoch", "train/loss", "valid/loss"]


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(
    ("event", "err", "left"),
    [
        (Event.BEFORE_EPOCH, CancelEpochException(), ["epoch"]),
        (Event.BEFORE_TRAIN, CancelTrainException(), ["epoch", "valid/loss"]),
        (Event.BEFORE_TRAIN, CancelEpochException(), ["epoch"]),
        (Event.BEFORE_VALIDATE, CancelValidException(), ["epoch", "train/loss"]),
        (Event.BEFORE_VALIDATE, CancelEpochException(), ["epoch", "train/loss"]),
        (Event.AFTER_TRAIN, CancelEpochException(), ["epoch"]),
        (Event.BEFORE_BATCH, CancelTrainException(), ["epoch", "valid/loss"]),
        (Event.BEFORE_BATCH, CancelBatchException(), ALL),
        (Event.AFTER_BATCH, CancelTrainException(), ALL),
    ],
    ids=str,
)
def test_the_names_of_a_cancelled_part_are_missing_and_other_values_stay_in_place(
    event: Event, err: CancelException, left: list[str], epoch: int
) -> None:
    plain, learn = toy_learner(), toy_learner(cbs=[RaiseAt(event, err, epoch)])
    plain.fit(3)
    learn.fit(3)
    expected = [ALL, ALL, ALL]
    expected[epoch] = left
    assert names_of(learn.recorder.rows) == expected
    for before, ours in zip(plain.recorder.rows[:epoch], learn.recorder.rows, strict=False):
        assert [ours[name] for name in ALL] == [before[name] for name in ALL]


def test_a_part_that_is_cut_short_is_averaged_over_its_batches() -> None:
    learn = toy_learner(cbs=[RaiseAt(Event.AFTER_BATCH, CancelTrainException(), iteration=1)])
    learn.fit(1)
    losses = learn.recorder.losses
    assert len(losses) == 2
    assert learn.recorder.row["train/loss"] == pytest.approx(losses.mean().item(), rel=1e-6)


def test_a_fit_cancelled_within_an_epoch_returns_the_metrics_of_the_last_complete_one() -> None:
    learn = toy_learner(cbs=[RaiseAt(Event.AFTER_BATCH, CancelFitException(), epoch=2)])
    result = learn.fit(5)
    assert (result.n_epoch, result.train_iter) == (2, 11)
    assert result.metrics == learn.recorder.rows[1]


def test_a_fit_cancelled_at_once_does_not_return_the_metrics_of_an_earlier_fit() -> None:
    learn = toy_learner()
    learn.fit(1)
    result = learn.fit(1, cbs=[RaiseAt(Event.BEFORE_FIT, CancelFitException())])
    assert (result.metrics, result.n_epoch, learn.recorder.rows) == ({}, 0, [])
    assert len(learn.recorder.losses) == 0


def test_a_second_fit_starts_a_new_record() -> None:
    learn = toy_learner()
    learn.fit(2)
    learn.fit(1)
    assert (len(learn.recorder.rows), len(learn.recorder.losses), len(learn.recorder.lrs["0"])) == (
        1,
        5,
        5,
    )


def test_last_returns_the_latest_value_and_lists_the_names_if_one_is_unknown() -> None:
    learn = toy_learner(metrics=[nn.functional.l1_loss])
    learn.fit(1)
    assert learn.recorder.last("valid/l1_loss") == learn.recorder.rows[-1]["valid/l1_loss"]
    with pytest.raises(
        LookupError,
        match="'valid/acc' was not recorded; recorded metrics: epoch, train/loss, train/l1_loss",
    ):
        learn.recorder.last("valid/acc")


def test_the_error_of_last_says_that_nothing_was_recorded() -> None:
    with pytest.raises(LookupError, match="'valid/loss' was not recorded; recorded metrics: none"):
        toy_learner().recorder.last("valid/loss")


def test_last_returns_the_value_of_the_previous_epoch_until_there_is_a_new_one() -> None:
    seen: list[float] = []

    class Reading(Callback):
        def before_train(self, learn: Learner) -> None:
            if learn.epoch:
                seen.append(learn.recorder.last("valid/loss"))

    learn = toy_learner(cbs=[Reading()])
    learn.fit(2)
    assert seen == [learn.recorder.rows[0]["valid/loss"]]


def parts_loss(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {"fit": nn.functional.mse_loss(pred, target), "size": 0.5 * pred.square().mean()}


def test_parts_of_the_loss_are_metrics_that_add_up() -> None:
    learn = toy_learner(loss_func=parts_loss)
    learn.fit(1)
    row = learn.recorder.row
    for part in ("train", "valid"):
        assert row[f"{part}/loss"] == pytest.approx(
            row[f"{part}/fit"] + row[f"{part}/size"], rel=1e-6
        )


def test_parts_of_the_loss_are_weighted_by_batch_size() -> None:
    learn = toy_learner(regression_lists(20, 12, bs=8), loss_func=parts_loss, lr=0.0)
    learn.fit(1)
    x = torch.cat([batch[0] for batch in learn.dls.train])
    expected = 0.5 * learn.model(x).square().mean().item()
    assert learn.recorder.row["train/size"] == pytest.approx(expected, rel=1e-6)


def test_parts_of_the_training_loss_alone_are_recorded_for_training_only() -> None:
    class Mixed(Learner):
        def get_loss(self) -> Tensor:
            self.loss_func = parts_loss if self.training else nn.functional.mse_loss
            return super().get_loss()

    learn = Mixed(nn.Linear(1, 1), regression_lists(), parts_loss, device="cpu")
    learn.fit(1)
    assert names_of(learn.recorder.rows) == [
        ["epoch", "train/loss", "train/fit", "train/size", "valid/loss"]
    ]


def test_a_last_batch_of_one_item_has_weight_one() -> None:
    learn = toy_learner(regression_lists(17, 9, bs=8), lr=0.0)
    learn.fit(1)
    for part, loader in (("train", learn.dls.train), ("valid", learn.dls.valid or [])):
        x, y = (torch.cat(items) for items in zip(*loader, strict=True))
        expected = nn.functional.mse_loss(learn.model(x), y).item()
        assert learn.recorder.row[f"{part}/loss"] == pytest.approx(expected, rel=1e-6)


def test_nan_stays_nan() -> None:
    lists = regression_lists()
    lists.valid = [(x * math.nan, y) for x, y in lists.valid or []]
    learn = toy_learner(lists)
    learn.fit(1)
    assert math.isnan(learn.recorder.row["valid/loss"])
    assert not math.isnan(learn.recorder.row["train/loss"])


def vector(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).abs().flatten()


def test_a_metric_must_be_one_number() -> None:
    with pytest.raises(ValueError, match="must return one number"):
        toy_learner(regression_lists(16, 16, bs=8), metrics=[vector]).fit(1)


def test_learning_rates_and_momentum_are_kept_by_group() -> None:
    learn = toy_learner(opt_func=torch.optim.Adam, lr=0.01)
    learn.fit(1)
    assert learn.recorder.lrs == {"0": [0.01] * 5}
    assert learn.recorder.moms == {"0": [0.9] * 5}


def test_a_record_loaded_from_its_state_is_the_same(tmp_path: Path) -> None:
    learn, other = digits_learner(), digits_learner()
    learn.fit_one_cycle(2)
    torch.save(learn.recorder.state_dict(), tmp_path / "state.pt")
    other.fit(0)
    other.recorder.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.recorder.rows == learn.recorder.rows
    assert torch.equal(other.recorder.losses, learn.recorder.losses)
    assert other.recorder.lrs == learn.recorder.lrs
    assert other.recorder.moms == learn.recorder.moms


def test_the_error_without_a_recorder_says_how_to_add_one() -> None:
    learn = toy_learner().remove_cb(Recorder)
    assert learn.fit(1).metrics == {}
    with pytest.raises(
        LookupError, match=r"The Learner has no Recorder: add one with add_cb\(Recorder\(\)\)"
    ):
        _ = learn.recorder


def test_get_preds_needs_tensors() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TypeError, match="returns a tensor, but this model returned a tuple"):
        toy_learner(model=Two()).get_preds()
