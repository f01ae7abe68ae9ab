"""Callback that runs a scheduler from `torch.optim.lr_scheduler`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch.optim import lr_scheduler

from nntrain.core.callback import Callback, Purpose
from nntrain.core.optimizer import param_groups
from nntrain.schedule import SGDR, FlatCos, OneCycle, ParamScheduler

if TYPE_CHECKING:
    from nntrain.learner import Learner


class LRScheduler(Callback):
    """Runs a PyTorch learning rate scheduler.

    Args:
        factory: function that creates the scheduler from an optimizer, for example
            `functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3)`.
        per: `"batch"` steps the scheduler after each optimizer step, `"epoch"` after each epoch
            that contains an optimizer step. Cancelled optimizer steps are ignored.

    Raises:
        ValueError: if `per` is unknown; at the start of the fit, if the scheduler is torch's
            `ReduceLROnPlateau` or another callback schedules the learning rate.
        TypeError: at the start of the fit, if `factory` does not return a PyTorch scheduler.
    """

    order: ClassVar[int] = 60
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(
        self, factory: Callable[..., Any], *, per: Literal["batch", "epoch"] = "batch"
    ) -> None:
        if per not in ("batch", "epoch"):
            raise ValueError(f"per={per!r} of LRScheduler must be 'batch' or 'epoch'.")
        self.factory, self.per = factory, per
        self.sched: lr_scheduler.LRScheduler | None = None
        self._skipped = self._stepped = False

    def before_fit(self, learn: Learner) -> None:
        """Creates the scheduler from the current learning rates of the optimizer."""
        assert learn.opt is not None
        _check_alone(learn)
        for group in param_groups(learn.opt):
            # An `initial_lr` left by an earlier scheduler would override the learning rate of this
            # fit.
            group.pop("initial_lr", None)
        self.sched = _checked(self.factory(learn.opt))
        self._skipped = self._stepped = False

    def after_cancel_step(self, learn: Learner) -> None:
        """Records that the optimizer did not step."""
        self._skipped = True

    def after_step(self, learn: Learner) -> None:
        """Steps the scheduler if `per` is `"batch"`."""
        skipped, self._skipped = self._skipped, False
        if skipped:
            return
        self._stepped = True
        if self.per == "batch":
            self._step()

    def after_epoch(self, learn: Learner) -> None:
        """Steps the scheduler if `per` is `"epoch"`."""
        if self.per == "epoch" and self._stepped:
            self._step()
        self._stepped = False

    def _step(self) -> None:
        assert self.sched is not None
        self.sched.step()

    def cleanup_fit(self, learn: Learner) -> None:
        """Releases the scheduler, which has a reference to the optimizer."""
        self.sched = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the scheduler, or an empty dict outside a fit."""
        return (
            {}
            if self.sched is None
            else {"sched": self.sched.state_dict(), "stepped": self._stepped}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned; call `before_fit` first."""
        if self.sched is not None and state:
            self.sched.load_state_dict(state["sched"])
            self._stepped = state["stepped"]


def _check_alone(learn: Learner) -> None:
    for cb in learn.cbs:
        # OneCycle, FlatCos and SGDR set `scheds` in `before_fit`, which may run after this check.
        if isinstance(cb, OneCycle | FlatCos | SGDR) or (
            isinstance(cb, ParamScheduler) and "lr" in cb.scheds
        ):
            raise ValueError(
                f"LRScheduler and {type(cb).__name__} would both set the learning rate: "
                "set schedule=none or remove lr_scheduler from the callbacks."
            )


def _checked(sched: Any) -> lr_scheduler.LRScheduler:
    if isinstance(sched, lr_scheduler.ReduceLROnPlateau):
        raise ValueError(
            "LRScheduler does not support torch's ReduceLROnPlateau: "
            "use nntrain.callbacks.ReduceLROnPlateau."
        )
    if not isinstance(sched, lr_scheduler.LRScheduler):
        raise TypeError(
            "The factory of LRScheduler must return a PyTorch scheduler, "
            f"but it returned an object of type {type(sched).__name__}."
        )
    return sched
