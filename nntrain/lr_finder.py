"""Learning rate range test, with the procedure and suggestion rules of fastai.

Sources: Smith, 2015, https://arxiv.org/abs/1506.01186 (the range test); Howard and Gugger, 2020,
https://arxiv.org/abs/2002.04688 (fastai).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from nntrain import plots
from nntrain.core.callback import Callback, Purpose
from nntrain.core.events import CancelFitException, CancelValidException
from nntrain.core.loop import Loop
from nntrain.core.optimizer import set_hyper
from nntrain.core.smoothing import Smoother
from nntrain.core.snapshot import leave_no_trace, mock_fit
from nntrain.metrics import func_name
from nntrain.result import StopReason
from nntrain.schedule import Schedule, sched_exp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nntrain.learner import Learner

SuggestFunc: TypeAlias = Callable[[Sequence[float], Sequence[float]], float]
"""Suggests a learning rate, given the tested rates `(n,)` and their smoothed losses `(n,)`."""

_BETA = 0.98
_SKIP_END = 5
_MIN_NUM_IT = 16


def valley(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Suggests the learning rate halfway down the longest decreasing subsequence of the losses.

    "Halfway" means the middle of the second third of the subsequence. This rule is fastai's
    default.

    Raises:
        ValueError: if `losses` is empty.
    """
    _require("valley", losses, 1)
    lengths: list[int] = []
    for i, loss in enumerate(losses):
        lengths.append(1 + max((lengths[j] for j in range(i) if losses[j] > loss), default=0))
    longest = max(lengths)
    if longest == 1:
        return float(lrs[0])
    end = lengths.index(longest)
    # As in fastai, `start` ignores gaps in the subsequence. `start` can be -1, the last rate.
    start, third = end - longest, longest / 3
    return float(lrs[start + int(third) + int(third / 2)])


def slide(
    lrs: Sequence[float],
    losses: Sequence[float],
    *,
    lr_diff: int = 15,
    thresh: float = 0.005,
    adjust_value: float = 1.0,
) -> float:
    """Suggests the last learning rate before the loss starts to rise.

    The rule starts at the end and goes back until the slope of the loss stops changing.

    Args:
        lrs: the learning rates `(n,)`.
        losses: the losses `(n,)`.
        lr_diff: number of steps between the two slopes that are compared.
        thresh: the slope is considered constant if the two slopes differ by at most this value
            (loss per step).
        adjust_value: factor to multiply the suggested rate by.

    Raises:
        ValueError: if `losses` has `lr_diff` or fewer entries.
    """
    _require("slide", losses, lr_diff + 1)
    slopes = np.gradient(np.asarray(losses, dtype=np.float64))
    left = len(losses) - 1 - lr_diff
    chosen = left
    while left >= 0 and abs(slopes[left + lr_diff] - slopes[left]) > thresh:
        chosen = left
        left -= 1
    return float(lrs[chosen]) * adjust_value


def minimum(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Suggests one tenth of the learning rate with the smallest loss.

    Raises:
        ValueError: if `losses` is empty.
    """
    _require("minimum", losses, 1)
    return float(lrs[int(np.argmin(losses))]) / 10


def steep(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Suggests the learning rate where the loss decreases fastest with respect to log(lr).

    Raises:
        ValueError: if `losses` has fewer than two entries.
    """
    _require("steep", losses, 2)
    return float(lrs[int(np.argmin(np.diff(losses) / np.diff(np.log(lrs))))])


def _require(rule: str, losses: Sequence[float], n: int) -> None:
    if len(losses) < n:
        raise ValueError(
            f"The rule {rule} needs at least {n} losses but got {len(losses)}: "
            "raise num_it or lower end_lr."
        )


@dataclass(frozen=True, slots=True)
class LRFindResult:
    """The result of `lr_find`.

    Attributes:
        lrs: the tested learning rates `(n,)`, up to the first NaN loss.
        losses: the smoothed loss at each rate `(n,)`.
        suggestions: the suggested learning rates, keyed by the name of the rule.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestions: Mapping[str, float]

    def __repr__(self) -> str:
        rates = f"{len(self.lrs)} rates" + (
            f" from {self.lrs[0]:.2g} to {self.lrs[-1]:.2g}" if self.lrs else ""
        )
        found = [f"{name}={lr:.2g}" for name, lr in self.suggestions.items()]
        return f"LRFindResult({', '.join([*found, rates])})"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plots the loss against the learning rate, without the last five points."""
        ax = plots.new_figure(7, 4).subplots() if ax is None else ax
        lrs, losses = self.lrs[:-_SKIP_END], self.losses[:-_SKIP_END]
        ax.plot(lrs, losses)
        for name, lr in self.suggestions.items():
            ax.plot(lr, np.interp(np.log(lr), np.log(lrs), losses), "o", label=f"{name}: {lr:.2e}")
        ax.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
        if self.suggestions:
            ax.legend()
        return ax


class _RangeTest(Callback):
    """Increases the learning rate with each batch and records the smoothed loss."""

    order: ClassVar[int] = 60
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.LR_FIND})

    def __init__(self, sched: Schedule, num_it: int, stop_div: bool) -> None:
        self.sched, self.num_it, self.stop_div = sched, num_it, stop_div
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.hit_nan = False
        self._smoother = Smoother(_BETA)

    def before_batch(self, learn: Learner) -> None:
        """Sets the learning rate of this batch in all parameter groups."""
        assert learn.opt is not None
        set_hyper(learn.opt, "lr", self._lr)

    @property
    def _lr(self) -> float:
        return self.sched(len(self.losses) / self.num_it)

    def after_loss(self, learn: Learner) -> None:
        """Records the loss; ends the test after the last batch or at divergence."""
        # item() waits for the device. The wait is acceptable because the test is short, and
        # necessary because the test must decide after every batch whether to stop.
        self._record(learn.loss.item())
        if self.hit_nan or self._diverged or len(self.losses) >= self.num_it:
            raise CancelFitException(reason=StopReason.COMPLETED)

    def _record(self, loss: float) -> None:
        smooth = self._smoother.add(loss)
        self.hit_nan = math.isnan(smooth)
        if not self.hit_nan:
            self.lrs.append(self._lr)
            self.losses.append(smooth)

    @property
    def _diverged(self) -> bool:
        best = min(self.losses, default=math.inf)
        # fastai compares only with 4 * best. If best is negative, best itself exceeds this limit.
        return self.stop_div and bool(self.losses) and self.losses[-1] > max(4 * best, -2 * best)

    def before_validate(self, learn: Learner) -> None:
        """Skips validation."""
        raise CancelValidException

    def curve(self) -> tuple[list[float], list[float]]:
        """Returns the rates and losses without the first 10% and the last five batches."""
        n = self.num_it if self.hit_nan else len(self.losses)
        judged = slice(self.num_it // 10, max(n - _SKIP_END, 0))
        return self.lrs[judged], self.losses[judged]


def lr_find(
    learn: Learner,
    *,
    start_lr: float = 1e-7,
    end_lr: float = 10,
    num_it: int = 100,
    stop_div: bool = True,
    suggest_funcs: Sequence[SuggestFunc] = (valley,),
) -> LRFindResult:
    """Trains with an increasing learning rate, suggests a rate, and restores the learner.

    The learning rate grows geometrically and is the same for all parameter groups. The training set
    is repeated if needed, and validation is skipped. Callbacks that change batches stay active;
    callbacks that save, report, stop or schedule are disabled.

    Args:
        learn: the learner. Its state is restored exactly after the test.
        start_lr: learning rate of the first batch.
        end_lr: upper end of the range. The last batch uses a slightly lower rate.
        num_it: number of batches.
        stop_div: stop when the smoothed loss exceeds four times its minimum so far.
        suggest_funcs: the rules: `valley`, `slide`, `minimum`, `steep`, or your own function.

    Raises:
        ValueError: if not `0 < start_lr < end_lr`, if `num_it` is too small, or if too few batches
            have a usable loss.
    """
    if not 0 < start_lr < end_lr:
        raise ValueError(
            f"lr_find needs 0 < start_lr < end_lr but got start_lr={start_lr} and end_lr={end_lr}."
        )
    if num_it < _MIN_NUM_IT:
        raise ValueError(
            f"num_it={num_it} of lr_find must be at least {_MIN_NUM_IT}: "
            "it is the number of batches (default 100)."
        )
    test = _RangeTest(sched_exp(start_lr, end_lr), num_it, stop_div)
    with leave_no_trace(learn), learn.added_cbs(test):
        mock_fit(Loop(learn, Purpose.LR_FIND), num_it)
    lrs, losses = test.curve()
    if len(losses) < 2:
        raise ValueError(_too_few(test))
    suggestions = {func_name(func): func(lrs, losses) for func in suggest_funcs}
    return LRFindResult(tuple(test.lrs), tuple(test.losses), suggestions)


def _too_few(test: _RangeTest) -> str:
    n = len(test.losses)
    why = "the loss became NaN" if test.hit_nan else "the loss diverged or batches were skipped"
    needed = test.num_it // 10 + 2 + (0 if test.hit_nan else _SKIP_END)
    return (
        f"lr_find needs {needed} usable losses but got only {n} because {why}: "
        "check the data and the model for NaN, or lower start_lr and end_lr."
    )
