"""The learning rate after each epoch equals that of fastai's callback."""

import logging

import pytest
import torch

from nntrain.callbacks import ReduceLROnPlateau
from nntrain.core.optimizer import param_groups
from tests.common.reference import reference, three_groups_learner
from tests.common.scripted import CourseSpy, ScriptedMetric
from tests.common.toys import toy_learner

PLATEAUS = reference("callbacks")["plateau"]


@pytest.mark.parametrize("name", PLATEAUS)
def test_the_rates_equal_fastais(name: str) -> None:
    case = PLATEAUS[name]
    reduce = ReduceLROnPlateau(patience=case["patience"], min_delta=case["min_delta"], min_lr=1e-4)
    spy = CourseSpy()
    toy_learner(cbs=[ScriptedMetric(case["values"]), reduce, spy]).fit(6)
    assert spy.epoch_lrs == pytest.approx(case["lrs"], rel=1e-12)


def test_every_group_is_lowered_by_the_same_factor() -> None:
    learn = three_groups_learner().add_cbs([ScriptedMetric([1, 2]), ReduceLROnPlateau(factor=0.5)])
    learn.fit(2, lr=[0.1, 0.2, 0.4])
    assert learn.opt is not None
    assert [group["lr"] for group in param_groups(learn.opt)] == [0.05, 0.1, 0.2]


def test_a_rate_below_the_lower_bound_is_not_raised() -> None:
    spy = CourseSpy()
    toy_learner(lr=0.01, cbs=[ScriptedMetric([1, 2, 3]), ReduceLROnPlateau(min_lr=0.05), spy]).fit(
        3
    )
    assert spy.epoch_lrs == [0.01, 0.01, 0.01]


def test_a_metric_that_should_rise() -> None:
    spy = CourseSpy()
    scripted = ScriptedMetric([0.5, 0.6, 0.6], name="valid/accuracy")
    toy_learner(cbs=[scripted, ReduceLROnPlateau("valid/accuracy"), spy]).fit(3)
    assert spy.epoch_lrs == pytest.approx([0.05, 0.05, 0.005])


def test_a_change_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    toy_learner(cbs=[ScriptedMetric([1, 2]), ReduceLROnPlateau(factor=0.5)]).fit(2)
    assert caplog.messages == [
        "epoch 1: lr reduced to [0.025], because valid/loss has not improved for 1 epoch(s)"
    ]


def test_a_rate_that_is_a_tensor_is_changed_in_place() -> None:
    learn = toy_learner(cbs=[ScriptedMetric([1, 2]), ReduceLROnPlateau()])
    opt = learn.create_opt()
    rate = param_groups(opt)[0]["lr"] = torch.tensor(0.05)
    learn.fit(2)
    assert float(rate) == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 10.0}, "factor=10.0 must be between 0 and 1"),
        ({"factor": 1.0}, "factor"),
        ({"min_lr": -1.0}, "min_lr=-1.0"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReduceLROnPlateau(**options)  # type: ignore[arg-type]
