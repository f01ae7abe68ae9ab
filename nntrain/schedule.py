"""Hyper-parameter schedules, with the formulas and defaults of fastai."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from nntrain.core.callback import Callback, Purpose
from nntrain.core.optimizer import LearningRate, get_hyper, has_momentum, param_groups, set_hyper
from nntrain.result import FitResult

if TYPE_CHECKING:
    from nntrain.learner import Learner

Schedule: TypeAlias = Callable[[float], float]
"""Maps the position in the fit, from 0 (start) to 1 (end), to a value."""


def sched_no(start: float, end: float) -> Schedule:
    """Returns a schedule that stays at `start`."""
    return lambda pos: start


def sched_lin(start: float, end: float) -> Schedule:
    """Returns a linear schedule from `start` to `end`."""
    return lambda pos: start + pos * (end - start)


def sched_cos(start: float, end: float) -> Schedule:
    """Returns a schedule from `start` to `end` with the shape of half a cosine wave.

    Source: Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983.
    """
    return lambda pos: start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


def sched_exp(start: float, end: float) -> Schedule:
    """Returns an exponential schedule from `start` to `end`.

    Raises:
        ValueError: if `start` and `end` have different signs, or one of them is 0.
    """
    if start * end <= 0:
        raise ValueError(
            f"sched_exp needs nonzero start and end of the same sign but got {start} and {end}."
        )
    return lambda pos: start * (end / start) ** pos


def sched_poly(start: float, end: float, power: float) -> Schedule:
    """Returns a polynomial schedule from `start` to `end`, proportional to `pos**power`."""
    return lambda pos: start + (end - start) * pos**power


def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """Joins schedules one after another; each schedule covers its fraction of the fit.

    Args:
        pcts: the fraction of the fit for each schedule.
        scheds: the schedules.

    Raises:
        ValueError: if the numbers of fractions and schedules differ, if a fraction is negative, or
            if the fractions do not add up to 1.
    """
    if len(pcts) != len(scheds):
        raise ValueError(
            f"combine_scheds needs one fraction per schedule but got {len(pcts)} for "
            f"{len(scheds)} schedules."
        )
    if abs(sum(pcts) - 1) > 1e-6 or min(pcts) < 0:
        raise ValueError(
            f"combine_scheds needs fractions of at least 0 that add up to 1 but got {list(pcts)}."
        )
    # Allow for rounding errors, such as 0.2 + 0.2 + 0.2 > 0.6; 1e-12 is far less than one batch.
    slack = 1e-12
    starts = [sum(pcts[:i]) for i in range(len(pcts))]

    def combined(pos: float) -> float:
        i = max(
            i for i, start in enumerate(starts) if pos >= start - slack and (pcts[i] > 0 or i == 0)
        )
        return scheds[i](min(max(pos - starts[i], 0.0) / pcts[i], 1.0) if pcts[i] else 1.0)

    return combined


def combined_cos(pct: float, start: float, middle: float, end: float) -> Schedule:
    """Returns a cosine schedule from `start` to `middle` at `pct`, then another one to `end`."""
    return combine_scheds([pct, 1 - pct], [sched_cos(start, middle), sched_cos(middle, end)])


class ParamScheduler(Callback):
    """Sets hyper-parameters of the optimizer before each training batch.

    The position in a schedule is `learn.pct_train`. If the loader has no length, the position
    advances once per epoch.

    Args:
        scheds: maps hyper-parameters of the optimizer (`lr`, `mom`, `weight_decay` and so on) to
            schedules. Pass one schedule for all parameter groups, or a sequence with one for each.
    """

    order: ClassVar[int] = 60
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, scheds: Mapping[str, Schedule | Sequence[Schedule]]) -> None:
        self.scheds = dict(scheds)
        self.hps: dict[str, list[float]] = {}

    def before_fit(self, learn: Learner) -> None:
        """Resets the recorded values."""
        self.hps = {name: [] for name in self.scheds}

    def before_batch(self, learn: Learner) -> None:
        """Sets the values for this batch; `hps` stores the values of the last parameter group."""
        if not learn.training or learn.opt is None:
            return
        for name, sched in self.scheds.items():
            value = (
                [one(learn.pct_train) for one in sched]
                if isinstance(sched, Sequence)
                else sched(learn.pct_train)
            )
            set_hyper(learn.opt, name, value)
            self.hps[name].append(get_hyper(param_groups(learn.opt)[-1], name))

    def state_dict(self) -> dict[str, Any]:
        """Returns the recorded values; the schedules themselves have no state."""
        return {"hps": {name: list(values) for name, values in self.hps.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the values returned by `state_dict`."""
        self.hps = {name: list(values) for name, values in state["hps"].items()}


def _check_pct_start(name: str, pct_start: float) -> None:
    if not 0 <= pct_start <= 1:
        raise ValueError(
            f"{name} got pct_start={pct_start}, but pct_start must be a fraction from 0 to 1."
        )


def _check_divisors(name: str, **divisors: float) -> None:
    for arg, value in divisors.items():
        if not value > 0:
            raise ValueError(f"{name} got {arg}={value}, but {arg} must be greater than 0.")


def _check_moms(name: str, moms: Sequence[float]) -> None:
    if not (
        isinstance(moms, Sequence)
        and len(moms) == 3
        and all(isinstance(mom, Real) and 0 <= mom < 1 for mom in moms)
    ):
        raise ValueError(f"{name} got moms={moms!r}, but moms must be three numbers in [0, 1).")


def _peaks(learn: Learner) -> list[float]:
    assert learn.opt is not None
    return [get_hyper(group, "lr") for group in param_groups(learn.opt)]


class OneCycle(ParamScheduler):
    """The one-cycle policy: a cosine warm-up of the learning rate, followed by a cosine decay.

    The learning rate of each parameter group goes from `lr / div` to `lr` and then to
    `lr / div_final`, where `lr` is the rate of the group when the fit starts. The
    momentum decreases during the warm-up and increases during the decay.

    Args:
        div: ratio of the peak learning rate to the initial learning rate.
        div_final: ratio of the peak learning rate to the final learning rate.
        pct_start: fraction of the fit spent on the warm-up.
        moms: momentum at the start, peak and end; ignored if the optimizer has no momentum.

    Raises:
        ValueError: if an argument is out of range.

    Source: Smith, 2018, https://arxiv.org/abs/1803.09820, with the formula of fastai.
    """

    def __init__(
        self,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
    ) -> None:
        _check_pct_start("OneCycle", pct_start)
        _check_divisors("OneCycle", div=div, div_final=div_final)
        _check_moms("OneCycle", moms)
        super().__init__({})
        self.div, self.div_final, self.pct_start = div, div_final, pct_start
        self.moms = moms

    def before_fit(self, learn: Learner) -> None:
        """Creates the schedules from the optimizer's learning rates."""
        self.scheds = {"lr": [self._lr_sched(peak) for peak in _peaks(learn)]}
        if learn.opt is not None and has_momentum(learn.opt):
            self.scheds["mom"] = combined_cos(self.pct_start, *self.moms)
        super().before_fit(learn)

    def _lr_sched(self, peak: float) -> Schedule:
        return combined_cos(self.pct_start, peak / self.div, peak, peak / self.div_final)


class FlatCos(ParamScheduler):
    """A constant learning rate, then a cosine decay to `lr / div_final`.

    Args:
        div_final: ratio of the constant learning rate to the final learning rate.
        pct_start: fraction of the fit with the constant learning rate.

    Raises:
        ValueError: if `pct_start` is not between 0 and 1, or `div_final` is not greater than 0.
    """

    def __init__(self, div_final: float = 1e5, pct_start: float = 0.75) -> None:
        _check_pct_start("FlatCos", pct_start)
        _check_divisors("FlatCos", div_final=div_final)
        super().__init__({})
        self.div_final, self.pct_start = div_final, pct_start

    def before_fit(self, learn: Learner) -> None:
        """Creates the schedules from the optimizer's learning rates."""
        self.scheds = {
            "lr": [
                combined_cos(self.pct_start, lr, lr, lr / self.div_final) for lr in _peaks(learn)
            ]
        }
        super().before_fit(learn)


class SGDR(ParamScheduler):
    """Cosine decay to 0 with warm restarts.

    The cycles are scaled to fill the fit. `fit_sgdr` computes the matching number of epochs.

    Args:
        n_cycles: number of cycles.
        cycle_mult: ratio of each cycle's length to the length of the previous cycle.

    Raises:
        ValueError: if an argument is less than 1.

    Source: Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983.
    """

    def __init__(self, n_cycles: int, cycle_mult: int = 2) -> None:
        if n_cycles < 1 or cycle_mult < 1:
            raise ValueError(
                "SGDR needs n_cycles and cycle_mult to be at least 1 "
                f"but got {n_cycles} and {cycle_mult}."
            )
        super().__init__({})
        self.n_cycles, self.cycle_mult = n_cycles, cycle_mult

    def before_fit(self, learn: Learner) -> None:
        """Creates the schedules from the optimizer's learning rates."""
        lengths = [self.cycle_mult**i for i in range(self.n_cycles)]
        pcts = [length / sum(lengths) for length in lengths]
        self.scheds = {
            "lr": [
                combine_scheds(pcts, [sched_cos(peak, 0)] * self.n_cycles) for peak in _peaks(learn)
            ]
        }
        super().before_fit(learn)


def fit_one_cycle(
    learn: Learner,
    n_epoch: int,
    lr_max: LearningRate | None = None,
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
    cbs: Sequence[Callback] = (),
    **kwargs: Any,
) -> FitResult:
    """Trains with the `OneCycle` schedule; `kwargs` are passed to `Learner.fit`."""
    sched = OneCycle(div, div_final, pct_start, moms)
    return learn.fit(n_epoch, lr=lr_max, cbs=[sched, *cbs], **kwargs)


def fit_flat_cos(
    learn: Learner,
    n_epoch: int,
    lr: LearningRate | None = None,
    *,
    div_final: float = 1e5,
    pct_start: float = 0.75,
    cbs: Sequence[Callback] = (),
    **kwargs: Any,
) -> FitResult:
    """Trains with the `FlatCos` schedule; `kwargs` are passed to `Learner.fit`."""
    return learn.fit(n_epoch, lr=lr, cbs=[FlatCos(div_final, pct_start), *cbs], **kwargs)


def fit_sgdr(
    learn: Learner,
    n_cycles: int,
    cycle_len: int,
    lr_max: LearningRate | None = None,
    *,
    cycle_mult: int = 2,
    cbs: Sequence[Callback] = (),
    **kwargs: Any,
) -> FitResult:
    """Trains with the `SGDR` schedule.

    Args:
        learn: the learner.
        n_cycles: number of cycles.
        cycle_len: number of epochs in the first cycle.
        lr_max: peak learning rate; `None` uses the learner's.
        cycle_mult: ratio of each cycle's length to the length of the previous cycle.
        cbs: callbacks for this fit only.
        **kwargs: further arguments of `Learner.fit`.
    """
    n_epoch = sum(cycle_len * cycle_mult**i for i in range(n_cycles))
    return learn.fit(n_epoch, lr=lr_max, cbs=[SGDR(n_cycles, cycle_mult), *cbs], **kwargs)
