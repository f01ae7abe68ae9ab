"""Schedules of hyper-parameters over a fit, and the fits that use them. The formulas and defaults are fastai's."""

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
"""A value for a position from 0 (start) to 1 (end)."""


def sched_no(start: float, end: float) -> Schedule:
    """Stays at `start`."""
    return lambda pos: start


def sched_lin(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` in a straight line."""
    return lambda pos: start + pos * (end - start)


def sched_cos(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` along half a cosine (Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983)."""
    return lambda pos: start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


def sched_exp(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` by equal ratios; both have the same sign and neither is 0."""
    if start * end <= 0:
        raise ValueError(
            f"sched_exp needs start and end of the same sign, neither 0, but got {start} and {end}."
        )
    return lambda pos: start * (end / start) ** pos


def sched_poly(start: float, end: float, power: float) -> Schedule:
    """Goes from `start` to `end` as `pos**power`."""
    return lambda pos: start + (end - start) * pos**power


def combine_scheds(pcts: Sequence[float], scheds: Sequence[Schedule]) -> Schedule:
    """One schedule after another, each over its share of the whole.

    Raises:
        ValueError: if there are not as many shares as schedules, or the shares do not add up to 1.
    """
    if len(pcts) != len(scheds):
        raise ValueError(
            f"combine_scheds needs a share for each schedule but got {len(pcts)} for {len(scheds)}."
        )
    if abs(sum(pcts) - 1) > 1e-6 or min(pcts) < 0:
        raise ValueError(
            f"combine_scheds needs shares that are not negative and add up to 1 but got {list(pcts)}."
        )
    # Less than any batch's share: five shares of 0.2 must each begin where they say, though 3 * 0.2 > 0.6.
    slack = 1e-12
    starts = [sum(pcts[:i]) for i in range(len(pcts))]

    def combined(pos: float) -> float:
        i = max(
            i for i, start in enumerate(starts) if pos >= start - slack and (pcts[i] > 0 or i == 0)
        )
        return scheds[i](min(max(pos - starts[i], 0.0) / pcts[i], 1.0) if pcts[i] else 1.0)

    return combined


def combined_cos(pct: float, start: float, middle: float, end: float) -> Schedule:
    """Half a cosine from `start` to `middle` over the first `pct` of the whole, another from there to `end`."""
    return combine_scheds([pct, 1 - pct], [sched_cos(start, middle), sched_cos(middle, end)])


class ParamScheduler(Callback):
    """Sets hyper-parameters of the optimizer before each training batch, from where the fit stands.

    Args:
        scheds: schedules by hyper-parameter name: `lr`, `mom`, `weight_decay`, or any other of the optimizer's. One
            schedule serves all parameter groups; a sequence has one for each.

    The position is `learn.pct_train`; where the loader has no length it advances by whole epochs.
    """

    order: ClassVar[int] = 60
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, scheds: Mapping[str, Schedule | Sequence[Schedule]]) -> None:
        self.scheds = dict(scheds)
        self.hps: dict[str, list[float]] = {}

    def before_fit(self, learn: Learner) -> None:
        """Begins a new record of values."""
        self.hps = {name: [] for name in self.scheds}

    def before_batch(self, learn: Learner) -> None:
        """Sets the values for this batch; `hps` keeps those of the last parameter group."""
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
        """The record of values; the schedules themselves follow from `learn.pct_train`."""
        return {"hps": {name: list(values) for name, values in self.hps.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.hps = {name: list(values) for name, values in state["hps"].items()}


def _check_pct_start(name: str, pct_start: float) -> None:
    if not 0 <= pct_start <= 1:
        raise ValueError(
            f"{name} got pct_start={pct_start}: it must be from 0 to 1, as a share of the fit."
        )


def _check_divisors(name: str, **divisors: float) -> None:
    for arg, value in divisors.items():
        if not value > 0:
            raise ValueError(
                f"{name} got {arg}={value}: it must be above 0, for the learning rate is divided by it."
            )


def _check_moms(name: str, moms: Sequence[float]) -> None:
    if not (
        isinstance(moms, Sequence)
        and len(moms) == 3
        and all(isinstance(mom, Real) and 0 <= mom < 1 for mom in moms)
    ):
        raise ValueError(
            f"{name} got moms={moms!r}: they must be three numbers, each at least 0 and less than 1."
        )


def _peaks(learn: Learner) -> list[float]:
    assert learn.opt is not None
    return [get_hyper(group, "lr") for group in param_groups(learn.opt)]


class OneCycle(ParamScheduler):
    """Warm-up from `lr / div` to `lr`, then decay to `lr / div_final`; momentum goes the other way, along cosines.

    The peak is the learning rate that the optimizer has when the fit begins, for each parameter group.

    Args:
        div: the peak divided by the first learning rate.
        div_final: the peak divided by the last.
        pct_start: share of the fit in which the learning rate rises.
        moms: momentum at the start, at the peak and at the end; left alone where the optimizer has none.

    Raises:
        ValueError: if an argument is out of its range.

    Source: Smith, 2018, https://arxiv.org/abs/1803.09820, in fastai's form.
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
        """Makes the schedules."""
        self.scheds = {"lr": [self._lr_sched(peak) for peak in _peaks(learn)]}
        if learn.opt is not None and has_momentum(learn.opt):
            self.scheds["mom"] = combined_cos(self.pct_start, *self.moms)
        super().before_fit(learn)

    def _lr_sched(self, peak: float) -> Schedule:
        return combined_cos(self.pct_start, peak / self.div, peak, peak / self.div_final)


class FlatCos(ParamScheduler):
    """A constant learning rate, then a cosine decay to `lr / div_final`; `pct_start` is the constant share of the fit.

    Raises:
        ValueError: if `pct_start` is not from 0 to 1, or `div_final` is not above 0.
    """

    def __init__(self, div_final: float = 1e5, pct_start: float = 0.75) -> None:
        _check_pct_start("FlatCos", pct_start)
        _check_divisors("FlatCos", div_final=div_final)
        super().__init__({})
        self.div_final, self.pct_start = div_final, pct_start

    def before_fit(self, learn: Learner) -> None:
        """Makes the schedules."""
        self.scheds = {
            "lr": [
                combined_cos(self.pct_start, lr, lr, lr / self.div_final) for lr in _peaks(learn)
            ]
        }
        super().before_fit(learn)


class SGDR(ParamScheduler):
    """Cosine decays to 0 with warm restarts: cycle `i` lasts `cycle_mult**i` times as long as the first.

    The cycles share out the fit, however many epochs it has; `fit_sgdr` gives it the epochs that they need.

    Source: Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983.
    """

    def __init__(self, n_cycles: int, cycle_mult: int = 2) -> None:
        if n_cycles < 1 or cycle_mult < 1:
            raise ValueError(
                f"SGDR needs n_cycles and cycle_mult of at least 1 but got {n_cycles} and {cycle_mult}."
            )
        super().__init__({})
        self.n_cycles, self.cycle_mult = n_cycles, cycle_mult

    def before_fit(self, learn: Learner) -> None:
        """Makes the schedules."""
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
    """Fits with `OneCycle`; `kwargs` go to `Learner.fit`."""
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
    """Fits with `FlatCos`; `kwargs` go to `Learner.fit`."""
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
    """Fits with `SGDR`: `n_cycles` cycles, of which the first has `cycle_len` epochs; `kwargs` go to `Learner.fit`."""
    n_epoch = sum(cycle_len * cycle_mult**i for i in range(n_cycles))
    return learn.fit(n_epoch, lr=lr_max, cbs=[SGDR(n_cycles, cycle_mult), *cbs], **kwargs)
