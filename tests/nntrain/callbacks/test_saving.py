"""The saved weights, the restored weights, and what is never saved."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nntrain import Callback, CancelFitException, Event, Learner
from nntrain.callbacks import EMA, SaveModel
from nntrain.checkpoint import CheckpointWriteError, read_checkpoint
from nntrain.testing import RaiseAt
from tests.common.disk import FullDisk
from tests.common.reference import reference
from tests.common.scripted import CourseSpy, ScriptedMetric, flat
from tests.common.toys import toy_learner

FASTAI = reference("callbacks")["save_model"]


def in_file(path: str | Path) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in read_checkpoint(path)["model"].values()])


def test_the_fit_ends_with_the_best_model_as_fastais_does() -> None:
    spy = CourseSpy()
    learn = toy_learner(lr=0.9, cbs=[ScriptedMetric(FASTAI["values"]), SaveModel("best.pt"), spy])
    learn.fit(5)
    assert flat(learn.model).tolist() == pytest.approx(FASTAI["final"], rel=1e-5)
    assert torch.equal(flat(learn.model), spy.weights[19])  # the weights after the fourth epoch
    assert torch.equal(in_file("best.pt"), spy.weights[19])


def test_without_restoring_the_fit_ends_with_the_last_model() -> None:
    spy = CourseSpy()
    learn = toy_learner(cbs=[ScriptedMetric([2, 1, 3]), SaveModel(restore_best=False), spy])
    learn.fit(3)
    assert torch.equal(flat(learn.model), spy.weights[14])
    assert torch.equal(in_file("best.pt"), spy.weights[9])


def test_a_cancelled_fit_ends_with_the_best_model_too() -> None:
    spy = CourseSpy()
    stop = RaiseAt(Event.BEFORE_STEP, CancelFitException(), epoch=2)
    learn = toy_learner(cbs=[ScriptedMetric([2, 1, 3]), SaveModel(), spy, stop])
    learn.fit(3)
    assert torch.equal(flat(learn.model), spy.weights[9])


@pytest.mark.parametrize("values", [[math.nan] * 2, [math.inf] * 2])
def test_a_fit_without_a_finite_metric_saves_and_restores_nothing(values: list[float]) -> None:
    spy = CourseSpy()
    save = SaveModel("best.pt")
    learn = toy_learner(cbs=[ScriptedMetric(values), save, spy])
    learn.fit(2)
    assert torch.equal(flat(learn.model), spy.weights[-1])
    assert not Path("best.pt").exists()
    assert save.saved is None


def test_the_file_of_an_earlier_fit_is_not_restored() -> None:
    learn = toy_learner(
        cbs=[scripted := ScriptedMetric([1]), SaveModel("best.pt"), spy := CourseSpy()]
    )
    learn.fit(1)
    scripted.values = [math.nan]
    learn.fit(1)
    assert torch.equal(flat(learn.model), spy.weights[9])


def test_weights_that_are_not_finite_are_not_saved(caplog: pytest.LogCaptureFixture) -> None:
    class Spoil(Callback):
        def after_train(self, learn: Learner) -> None:
            if learn.epoch == 1:
                nn.init.constant_(next(learn.model.parameters()), math.nan)

    learn = toy_learner(
        cbs=[ScriptedMetric([2, 1]), Spoil(), SaveModel("best.pt"), spy := CourseSpy()]
    )
    learn.fit(2)
    assert torch.equal(in_file("best.pt"), spy.weights[4])
    assert torch.equal(flat(learn.model), spy.weights[4])
    assert "epoch 1: the model has NaN or infinite weights and was not saved" in caplog.messages


def test_buffers_are_checked_as_well() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    model[1].get_buffer("running_mean").fill_(math.inf)
    toy_learner(model=model, cbs=[SaveModel("best.pt")]).fit(1)
    assert not Path("best.pt").exists()


def test_with_ema_the_measured_weights_are_saved() -> None:
    class Measured(Callback):
        def after_validate(self, learn: Learner) -> None:
            self.weights = flat(learn.model)

    measured = Measured()
    learn = toy_learner(cbs=[EMA(0.5), SaveModel("best.pt"), measured])
    learn.fit(1)
    assert torch.equal(in_file("best.pt"), measured.weights)
    assert torch.equal(flat(learn.model), measured.weights)


def test_an_earlier_best_is_kept_over_the_last_average() -> None:
    learn = toy_learner(cbs=[ScriptedMetric([1, 2]), EMA(0.5), SaveModel("best.pt")])
    learn.fit(2)
    assert torch.equal(flat(learn.model), in_file("best.pt"))


def test_an_earlier_best_is_kept_over_the_average_of_a_cancelled_fit() -> None:
    stop = RaiseAt(Event.BEFORE_STEP, CancelFitException(), epoch=1, iteration=3)
    learn = toy_learner(cbs=[EMA(0.5), SaveModel("best.pt"), stop])
    learn.fit(2)
    assert torch.equal(flat(learn.model), in_file("best.pt"))


def test_the_optimizer_is_saved_and_restored_if_asked_to() -> None:
    def momentum(learn: Learner) -> Tensor:
        assert isinstance(learn.opt, torch.optim.SGD)
        found: Tensor = learn.opt.state[learn.model.weight]["momentum_buffer"]  # type: ignore[index]
        return found.clone()

    class Momenta(Callback):
        def before_fit(self, learn: Learner) -> None:
            self.kept: list[Tensor] = []

        def after_epoch(self, learn: Learner) -> None:
            self.kept.append(momentum(learn))

    def sgd(params: object, lr: float) -> torch.optim.SGD:
        return torch.optim.SGD(params, lr=lr, momentum=0.9)  # type: ignore[arg-type]

    for with_opt in (True, False):
        momenta = Momenta()
        save = SaveModel("best.pt", with_opt=with_opt)
        learn = toy_learner(opt_func=sgd, cbs=[ScriptedMetric([1, 2]), save, momenta])
        learn.fit(2)
        assert ("opt" in read_checkpoint("best.pt")) is with_opt
        assert torch.equal(momentum(learn), momenta.kept[0 if with_opt else 1])


def resumed(save: SaveModel, state: dict[str, str | None]) -> Learner:
    """Resumes a fit and returns its learner.

    Another process ran the first epoch, which was the best one.
    """

    class Resume(Callback):
        order = 80

        def before_fit(self, learn: Learner) -> None:
            save.load_state_dict(state)
            learn.recorder.rows = [{"valid/loss": 0.0}]

    learn = toy_learner(cbs=[save, Resume()])
    learn.fit(2, start_epoch=1)
    return learn


def test_a_resumed_fit_restores_the_earlier_best_and_saves_it_in_its_own_file() -> None:
    first = SaveModel("old/best.pt")
    toy_learner(cbs=[first]).fit(1)
    old = in_file("old/best.pt")
    learn = resumed(SaveModel("new/best.pt"), {"saved": str(Path("old/best.pt").absolute())})
    assert torch.equal(flat(learn.model), old)
    assert torch.equal(in_file("new/best.pt"), old)


def test_a_missing_best_model_causes_a_warning_instead_of_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    resumed(SaveModel("new/best.pt"), {"saved": "/nowhere/best.pt"})
    assert "the best model was not restored: /nowhere/best.pt does not exist" in caplog.messages


def test_full_disk_keeps_the_best_model_that_could_be_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spy, full = CourseSpy(), FullDisk([1])
    values = [3.0, 1.0, 2.0, 4.0]  # the second is the best, but is not written
    learn = toy_learner(cbs=[ScriptedMetric(values), SaveModel("best.pt"), spy, full])
    learn.fit(4)
    assert torch.equal(flat(learn.model), spy.weights[14])
    assert torch.equal(in_file("best.pt"), spy.weights[14])
    assert caplog.messages == [
        "best.pt could not be written (the previous file is unchanged): File too large; "
        "training continues",
        "1 of 3 saves of best.pt failed (File too large)",
    ]


def test_full_disk_stops_training_if_wanted() -> None:
    save = SaveModel("best.pt", on_error="stop")
    learn = toy_learner(cbs=[ScriptedMetric([2, 1]), save, FullDisk([1])])
    with pytest.raises(CheckpointWriteError, match=r"^best.pt could not be written"):
        learn.fit(2)


def test_after_a_resume_an_epoch_that_was_not_written_is_still_no_best_epoch() -> None:
    first, second = SaveModel("best.pt"), SaveModel("best.pt")
    toy_learner(cbs=[ScriptedMetric([2, 1]), first, FullDisk([1])]).fit(2)
    second.load_state_dict(first.state_dict())
    assert second.is_ignored({"epoch": 1.0})
    assert not second.is_ignored({"epoch": 0.0})


def test_saving_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    toy_learner(cbs=[ScriptedMetric([2, 3, 1]), SaveModel("best.pt")]).fit(3)
    assert [message.split(":")[0] for message in caplog.messages] == ["epoch 0", "epoch 2"]
    assert caplog.messages[0] == "epoch 0: best valid/loss so far, saved to best.pt"
