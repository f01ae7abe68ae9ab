"""Using the schedulers of `torch.optim.lr_scheduler`."""

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
    """Runs a scheduler of torch: steps it after each step of the optimizer, or after each epoch that had one.

    Args:
        factory: makes the scheduler for an optimizer, as `functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3)`.
        per: `"batch"` or `"epoch"`; what the scheduler counts. A step that was cancelled is not counted.

    Raises:
        ValueError: if `per` is another, or, when the fit begins, for torch's `ReduceLROnPlateau`, or beside a schedule of
            the learning rate.
    """

    order: ClassVar[int] = 60
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(
        self, factory: Callable[..., Any], *, per: Literal["batch", "epoch"] = "batch"
    ) -> None:
        if per not in ("batch", "epoch"):
            raise ValueError(f"LRScheduler got per={per!r}: choose batch or epoch.")
        self.factory, self.per = factory, per
        self.sched: lr_scheduler.LRScheduler | None = None
        self._skipped = self._stepped = False

    def before_fit(self, learn: Learner) -> None:
        """Makes the scheduler for the learning rates that the optimizer has now."""
        assert learn.opt is not None
        _check_alone(learn)
        for group in param_groups(learn.opt):
            group.pop(
                "initial_lr", None
            )  # what an earlier scheduler left there would overrule this fit's rate
        self.sched = _checked(self.factory(learn.opt))
        self._skipped = self._stepped = False

    def after_cancel_step(self, learn: Learner) -> None:
        """Remembers that the optimizer did not step."""
        self._skipped = True

    def after_step(self, learn: Learner) -> None:
        """Steps the scheduler of batches."""
        skipped, self._skipped = self._skipped, False
        if skipped:
            return
        self._stepped = True
        if self.per == "batch":
            self._step()

    def after_epoch(self, learn: Learner) -> None:
        """Steps the scheduler of epochs."""
        if self.per == "epoch" and self._stepped:
            self._step()
        self._stepped = False

    def _step(self) -> None:
        assert self.sched is not None
        self.sched.step()

    def cleanup_fit(self, learn: Learner) -> None:
        """Lets go of the scheduler, and with it of the optimizer."""
        self.sched = None

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state, while a fit runs."""
        return (
            {}
            if self.sched is None
            else {"sched": self.sched.state_dict(), "stepped": self._stepped}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; the scheduler is there once `before_fit` has run."""
        if self.sched is not None and state:
            self.sched.load_state_dict(state["sched"])
            self._stepped = state["stepped"]


def _check_alone(learn: Learner) -> None:
    for cb in learn.cbs:
        # These three make their schedules when the fit begins, perhaps after this callback.
        if isinstance(cb, OneCycle | FlatCos | SGDR) or (
            isinstance(cb, ParamScheduler) and "lr" in cb.scheds
        ):
            raise ValueError(
                f"LRScheduler and {type(cb).__name__} would both set the learning rate: "
                "set schedule=none or leave lr_scheduler out of the callbacks."
            )


def _checked(sched: Any) -> lr_scheduler.LRScheduler:
    if isinstance(sched, lr_scheduler.ReduceLROnPlateau):
        raise ValueError(
            "LRScheduler cannot run torch's ReduceLROnPlateau: use nntrain.callbacks.ReduceLROnPlateau."
        )
    if not isinstance(sched, lr_scheduler.LRScheduler):
        raise TypeError(
            f"LRScheduler needs a factory of torch schedulers, but it made a {type(sched).__name__}."
        )
    return sched
