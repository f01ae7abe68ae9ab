"""Schedules have fastai's values at every position and in every batch of a fit."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from nntrain import Learner
from nntrain.schedule import (
    SGDR,
    FlatCos,
    OneCycle,
    ParamScheduler,
    Schedule,
    combine_scheds,
    combined_cos,
    sched_cos,
    sched_exp,
    sched_lin,
    sched_no,
    sched_poly,
)
from tests.common.reference import FITS, fitted, reference, three_groups_learner
from tests.common.toys import Lists, regression_lists, toy_learner

REFERENCE = reference("learner")
SCHEDULES: dict[str, Schedule] = {
    "sched_no": sched_no(2, 5),
    "sched_lin": sched_lin(2, 5),
    "sched_cos": sched_cos(2, 5),
    "sched_exp": sched_exp(2, 5),
    "sched_poly": sched_poly(2, 5, 3),
    "combine_scheds": combine_scheds(
        [0.25, 0.5, 0.25], [sched_lin(1, 3), sched_cos(3, 2), sched_exp(2, 4)]
    ),
    "combined_cos": combined_cos(0.3, 1, 4, 0.5),
}


@pytest.mark.parametrize("name", REFERENCE["schedules"])
def test_the_values_of_a_schedule_equal_fastais(name: str) -> None:
    assert [SCHEDULES[name](i / 16) for i in range(17)] == pytest.approx(
        REFERENCE["schedules"][name], rel=1e-6
    )


@pytest.mark.parametrize("name", REFERENCE["fits"])
def test_learning_rates_of_every_batch_equal_fastais(name: str) -> None:
    expected = list(zip(*REFERENCE["fits"][name]["lr"], strict=True))
    lrs = fitted(name).recorder.lrs
    assert len(lrs) == len(expected)
    for ours, theirs in zip(lrs.values(), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", REFERENCE["fits"])
def test_momentum_of_every_batch_equals_fastais(name: str) -> None:
    expected = list(zip(*REFERENCE["fits"][name]["mom"], strict=True))
    for ours, theirs in zip(fitted(name).recorder.moms.values(), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_every_reference_fit_is_run() -> None:
    assert set(FITS) == set(REFERENCE["fits"])


@pytest.mark.parametrize("n_cycles", [1, 2, 3, 5])
@pytest.mark.parametrize("cycle_mult", [1, 2, 3])
def test_every_sgdr_cycle_starts_at_the_peak(n_cycles: int, cycle_mult: int) -> None:
    lists = regression_lists(8, 8, bs=8)
    learn = toy_learner(Lists(lists.train, None))
    learn.fit_sgdr(n_cycles, 2, 0.05, cycle_mult=cycle_mult)
    lrs = learn.recorder.lrs["0"]
    starts = [2 * sum(cycle_mult**i for i in range(cycle)) for cycle in range(n_cycles)]
    assert [i for i, lr in enumerate(lrs) if lr == 0.05] == starts
    assert learn.n_epoch == 2 * sum(cycle_mult**i for i in range(n_cycles))


@pytest.mark.parametrize(("n_cycles", "cycle_mult"), [(0, 2), (2, 0)])
def test_sgdr_needs_cycles(n_cycles: int, cycle_mult: int) -> None:
    with pytest.raises(ValueError, match="needs n_cycles and cycle_mult to be at least 1"):
        SGDR(n_cycles, cycle_mult)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 0), (-1, 1)])
def test_sched_exp_needs_ends_of_the_same_sign(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="sched_exp needs nonzero start and end of the same sign"):
        sched_exp(start, end)


@pytest.mark.parametrize(
    ("pcts", "message"),
    [
        ([0.5], "one fraction per schedule but got 1 for 2"),
        ([0.5, 0.4], r"add up to 1 but got \[0.5, 0.4\]"),
        ([1.5, -0.5], "fractions of at least 0"),
    ],
)
def test_combine_scheds_needs_fractions_that_add_up_to_one(pcts: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine_scheds(pcts, [sched_no(1, 1), sched_no(2, 2)])


@pytest.mark.parametrize(("pos", "expected"), [(0.0, 2.0), (0.5, 2.5), (1.0, 3.0)])
def test_a_schedule_with_a_fraction_of_zero_is_skipped(pos: float, expected: float) -> None:
    assert combine_scheds([0, 1], [sched_no(1, 1), sched_lin(2, 3)])(pos) == expected


@pytest.mark.parametrize(("pct", "expected"), [(0.0, 4.0), (1.0, 1.0)])
def test_combined_cos_may_use_only_one_of_its_halves(pct: float, expected: float) -> None:
    assert combined_cos(pct, 1, 4, 0.5)(0.0) == expected


def test_fractions_of_one_third_add_up_to_one() -> None:
    third = combine_scheds([1 / 3] * 3, [sched_no(i, i) for i in range(3)])
    assert [third(pos) for pos in (0.0, 1 / 3, 2 / 3, 1.0)] == [0, 1, 2, 2]


def test_a_scheduler_sets_any_hyper_parameter_of_training_batches_only() -> None:
    sched = ParamScheduler({"weight_decay": sched_lin(0, 1)})
    toy_learner(regression_lists(32, 32, bs=8), cbs=[sched]).fit(2)
    assert sched.hps == {"weight_decay": pytest.approx([i / 8 for i in range(8)])}


def test_a_scheduler_accepts_a_schedule_for_each_group() -> None:
    learn = three_groups_learner()
    scheds = [sched_no(1e-3, 0), sched_no(1e-2, 0), sched_lin(0, 0.1)]
    learn.fit(1, cbs=[ParamScheduler({"lr": scheds})])
    assert learn.recorder.lrs["0"] == [1e-3] * 5
    assert learn.recorder.lrs["1"] == [1e-2] * 5
    assert learn.recorder.lrs["2"] == pytest.approx([0, 0.02, 0.04, 0.06, 0.08])


def test_an_unknown_hyper_parameter_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="hyper-parameter 'beta': the optimizer has lr, momentum"):
        toy_learner().fit(1, cbs=[ParamScheduler({"beta": sched_no(1, 1)})])


def test_one_cycle_works_with_an_optimizer_without_momentum() -> None:
    learn = toy_learner(opt_func=torch.optim.Adagrad)
    learn.fit_one_cycle(1)
    assert learn.recorder.moms == {}
    assert max(learn.recorder.lrs["0"]) <= 0.05


class NoLength:
    """A loader without a length."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        yield from self.batches


def test_without_a_length_the_position_advances_per_epoch() -> None:
    lists = regression_lists()
    learn = toy_learner(Lists(NoLength(lists.train), lists.valid))
    learn.fit(2, cbs=[ParamScheduler({"lr": sched_lin(0, 1)})])
    assert learn.recorder.lrs["0"] == [0.0] * 5 + [0.5] * 5


FIT_NAMES: dict[str, Callable[[Learner], object]] = {
    "one_cycle": lambda learn: learn.fit_one_cycle(1),
    "flat_cos": lambda learn: learn.fit_flat_cos(1),
    "sgdr": lambda learn: learn.fit_sgdr(1, 1),
}


@pytest.mark.parametrize("name", FIT_NAMES)
def test_a_scheduled_fit_leaves_no_scheduler_behind(name: str) -> None:
    learn = toy_learner()
    before = list(learn.cbs)
    FIT_NAMES[name](learn)
    assert learn.cbs == before


@pytest.mark.parametrize("name", FIT_NAMES)
def test_the_peak_is_the_learners_rate_in_every_fit(name: str) -> None:
    """A second fit starts from the learner's rate, not from the last rate of the first fit."""
    learn = toy_learner(lr=0.04, dls=regression_lists(320))
    FIT_NAMES[name](learn)
    first = max(learn.recorder.lrs["0"])
    FIT_NAMES[name](learn)
    assert max(learn.recorder.lrs["0"]) == first == pytest.approx(0.04)


def test_a_resumed_fit_continues_the_schedule() -> None:
    whole, part = toy_learner(), toy_learner()
    whole.fit_one_cycle(4)
    part.fit_one_cycle(4, start_epoch=2)
    assert part.recorder.lrs["0"] == whole.recorder.lrs["0"][10:]


def test_cosine_by_hand() -> None:
    assert sched_cos(0, 2)(0.25) == pytest.approx(1 + math.cos(0.75 * math.pi))


def test_fit_flat_cos_passes_its_options_to_fit() -> None:
    learn = toy_learner(opt_func=partial(torch.optim.SGD, momentum=0.5))
    learn.fit_flat_cos(1, wd=0.25)
    assert learn.opt is not None
    assert learn.opt.param_groups[0]["weight_decay"] == 0.25  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "kwargs", "message"),
    [
        (
            OneCycle,
            {"pct_start": 1.5},
            r"OneCycle got pct_start=1\.5, but pct_start must be a fraction from 0 to 1",
        ),
        (OneCycle, {"pct_start": math.nan}, "OneCycle got pct_start=nan"),
        (OneCycle, {"div": 0}, "OneCycle got div=0, but div must be greater than 0"),
        (OneCycle, {"div_final": -1}, "div_final=-1, but div_final must be greater than 0"),
        (
            OneCycle,
            {"moms": (0.9, 0.8)},
            r"OneCycle got moms=\(0\.9, 0\.8\), but moms must be three numbers",
        ),
        (OneCycle, {"moms": (0.9, 0.8, 1.0)}, r"must be three numbers in \[0, 1\)"),
        (OneCycle, {"moms": 0.9}, r"moms=0\.9, but moms must be three numbers"),
        (OneCycle, {"moms": (0.9, 0.8, None)}, "moms must be three numbers"),
        (FlatCos, {"pct_start": -0.1}, r"FlatCos got pct_start=-0\.1"),
        (FlatCos, {"div_final": 0}, "FlatCos got div_final=0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_creation(
    make: Callable[..., Any], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize("pct_start", [0, 1])
def test_the_limits_of_the_ranges_are_allowed(pct_start: float) -> None:
    for sched in (OneCycle(pct_start=pct_start, moms=(0, 0.5, 0)), FlatCos(pct_start=pct_start)):
        assert toy_learner(cbs=[sched]).fit(1).n_epoch == 1
