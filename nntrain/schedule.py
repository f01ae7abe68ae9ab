"""Schedules of hyper-parameters, and fits that use them, with fastai's formulas and defaults."""

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
"""Maps a position from 0 (start) to 1 (end) to a value."""


def sched_no(start: float, end: float) -> Schedule:
    """Stays at `start`."""
    return lambda pos: start


def sched_lin(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` in a straight line."""
    return lambda pos: start + pos * (end - start)


def sched_cos(start: float, end: float) -> Schedule:
    """Goes from `start` to `end` along half a cosine.

    Source: Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983.
    """
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
    """Runs schedules one after another, each over its fraction of the whole.

    Raises:
        ValueError: if there is not one fraction for each schedule, or they do not add up to 1.
    """
    if len(pcts) != len(scheds):
        raise ValueError(
            f"combine_scheds needs one fraction per schedule but got {len(pcts)} for {len(scheds)}."
        )
    if abs(sum(pcts) - 1) > 1e-6 or min(pcts) < 0:
        raise ValueError(
            f"combine_scheds needs fractions of at least 0 that add up to 1 but got {list(pcts)}."
        )
    # smaller than one batch: fractions of 0.2 must start where they say, though 3 * 0.2 > 0.6
    slack = 1e-12
    starts = [sum(pcts[:i]) for i in range(len(pcts))]

    def combined(pos: float) -> float:
        i = max(
            i for i, start in enumerate(starts) if pos >= start - slack and (pcts[i] > 0 or i == 0)
        )
        return scheds[i](min(max(pos - starts[i], 0.0) / pcts[i], 1.0) if pcts[i] else 1.0)

    return combined


def combined_cos(pct: float, start: float, middle: float, end: float) -> Schedule:
    """Goes along half a cosine to `middle` over the first `pct`, then along another to `end`."""
    return combine_scheds([pct, 1 - pct], [sched_cos(start, middle), sched_cos(middle, end)])


class ParamScheduler(Callback):
    """Sets hyper-parameters of the optimizer before each training batch.

    The position is `learn.pct_train`; without a length of the loader it advances once per epoch.

    Args:
        scheds: schedules by hyper-parameter: `lr`, `mom`, `weight_decay`, or another one of the
            optimizer. One schedule serves all parameter groups; a sequence has one for each.
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
        """Sets the values for this batch; `hps` records those of the last parameter group."""
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
        """Returns the recorded values; the schedules follow from `learn.pct_train`."""
        return {"hps": {name: list(values) for name, values in self.hps.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.hps = {name: list(values) for name, values in state["hps"].items()}


def _check_pct_start(name: str, pct_start: float) -> None:
    if not 0 <= pct_start <= 1:
        raise ValueError(
            f"{name} got pct_start={pct_start}: it must be a fraction of the fit, from 0 to 1."
        )


def _check_divisors(name: str, **divisors: float) -> None:
    for arg, value in divisors.items():
        if not value > 0:
            raise ValueError(
                f"{name} got {arg}={value}: it must be above 0, as it divides the learning rate."
            )


def _check_moms(name: str, moms: Sequence[float]) -> None:
    if not (
        isinstance(moms, Sequence)
        and len(moms) == 3
        and all(isinstance(mom, Real) and 0 <= mom < 1 for mom in moms)
    ):
        raise ValueError(
            f"{name} got moms={moms!r}: it must have three numbers of at least 0 and less than 1."
        )


def _peaks(learn: Learner) -> list[float]:
    assert learn.opt is not None
    return [get_hyper(group, "lr") for group in param_groups(learn.opt)]


class OneCycle(ParamScheduler):
    """A warm-up from `lr / div` to `lr`, then a decay to `lr / div_final`, along cosines.

    `lr` is the optimizer's learning rate when the fit starts, for each parameter group. Momentum
    goes down and up again.

    Args:
        div: the peak learning rate divided by the first.
        div_final: the peak learning rate divided by the last.
        pct_start: fraction of the fit in which the learning rate rises.
        moms: momentum at the start, peak and end; ignored if the optimizer has no momentum.

    Raises:
        ValueError: if an argument is out of range.

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
        """Makes the schedules from the optimizer's learning rates."""
        self.scheds = {"lr": [self._lr_sched(peak) for peak in _peaks(learn)]}
        if learn.opt is not None and has_momentum(learn.opt):
            self.scheds["mom"] = combined_cos(self.pct_start, *self.moms)
        super().before_fit(learn)

    def _lr_sched(self, peak: float) -> Schedule:
        return combined_cos(self.pct_start, peak / self.div, peak, peak / self.div_final)


class FlatCos(ParamScheduler):
    """A constant learning rate, then a cosine decay to `lr / div_final`.

    Args:
        div_final: the constant learning rate divided by the last.
        pct_start: fraction of the fit in which the learning rate is constant.

    Raises:
        ValueError: if `pct_start` is not from 0 to 1, or `div_final` is not above 0.
    """

    def __init__(self, div_final: float = 1e5, pct_start: float = 0.75) -> None:
        _check_pct_start("FlatCos", pct_start)
        _check_divisors("FlatCos", div_final=div_final)
        super().__init__({})
        self.div_final, self.pct_start = div_final, pct_start

    def before_fit(self, learn: Learner) -> None:
        """Makes the schedules from the optimizer's learning rates."""
        self.scheds = {
            "lr": [
                combined_cos(self.pct_start, lr, lr, lr / self.div_final) for lr in _peaks(learn)
            ]
        }
        super().before_fit(learn)


class SGDR(ParamScheduler):
    """Cosine decays to 0 with warm restarts.

    The cycles together span the fit; `fit_sgdr` chooses the number of epochs accordingly.

    Args:
        n_cycles: number of cycles.
        cycle_mult: length of each cycle relative to the one before.

    Raises:
        ValueError: if an argument is less than 1.

    Source: Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983.
    """

    def __init__(self, n_cycles: int, cycle_mult: int = 2) -> None:
        if n_cycles < 1 or cycle_mult < 1:
            raise ValueError(
                "SGDR needs n_cycles and cycle_mult of at least 1 "
                f"but got {n_cycles} and {cycle_mult}."
            )
        super().__init__({})
        self.n_cycles, self.cycle_mult = n_cycles, cycle_mult

    def before_fit(self, learn: Learner) -> None:
        """Makes the schedules from the optimizer's learning rates."""
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
    """Trains with a warm-up and a cosine decay (`OneCycle`); `kwargs` go to `Learner.fit`."""
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
    """Trains at a constant rate, then a cosine decay (`FlatCos`); `kwargs` go to `Learner.fit`."""
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
    """Trains with cosine decays and warm restarts (`SGDR`).

    Args:
        learn: the learner.
        n_cycles: number of cycles.
        cycle_len: epochs of the first cycle.
        lr_max: peak learning rate; `None` selects the learner's.
        cycle_mult: length of each cycle relative to the one before.
        cbs: callbacks for this fit only.
        **kwargs: further arguments of `Learner.fit`.
    """
    n_epoch = sum(cycle_len * cycle_mult**i for i in range(n_cycles))
    return learn.fit(n_epoch, lr=lr_max, cbs=[SGDR(n_cycles, cycle_mult), *cbs], **kwargs)
