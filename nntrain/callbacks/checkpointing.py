"""Saves checkpoints of the full training state and resumes from them exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nntrain.callbacks.write_errors import OnError, WriteErrors
from nntrain.checkpoint import (
    LAST,
    PREVIOUS,
    CheckpointError,
    matching,
    read_checkpoint,
    write_checkpoint,
)
from nntrain.core.callback import Callback, Purpose
from nntrain.core.partial import remove_partial
from nntrain.learner_state import (
    learner_rng_state,
    learner_state,
    load_learner_state,
    set_learner_rng_state,
)
from nntrain.result import StopReason

if TYPE_CHECKING:
    from nntrain.learner import Learner


class Checkpoint(Callback):
    """Saves the full training state to `last.ckpt`, and resumes a fit from a checkpoint.

    The previous checkpoint is kept as `previous.ckpt`. Checkpoints are written every `every_epoch`
    epochs, after the last epoch, and when the fit is interrupted (`StopReason.INTERRUPTED`). If the
    interrupt arrives during training, the checkpoint contains the state after the current batch. If
    the interrupt arrives during validation, the checkpoint contains the state just before
    validation. If the fit stops for any other reason, no new checkpoint is written. Resuming such a
    fit continues from the last saved epoch, and the callback that stopped the fit can stop it
    again.

    On the CPU, a resumed fit matches an uninterrupted fit bit for bit if the data, `n_epoch` and
    the callbacks are the same. The learning rates come from the checkpoint. A larger `n_epoch`
    extends the fit and stretches its schedules. If the fit was already finished, resuming it
    returns immediately. `DataLoader` workers are restarted, so the random state of
    `persistent_workers` is lost.

    Args:
        folder: folder for the checkpoints; created if missing.
        every_epoch: number of epochs between checkpoints.
        resume: checkpoint file, or folder that contains `last.ckpt`. The next fit resumes from this
            checkpoint; later fits of the same learner start from scratch.
        on_error: what to do if a checkpoint cannot be written, for example on a full disk. `"warn"`
            logs a warning, keeps the previous checkpoint and continues training; `"stop"` raises.

    Raises:
        ValueError: if `every_epoch` is less than 1 or `on_error` is unknown.
        CheckpointWriteError: if a checkpoint cannot be written and `on_error` is `"stop"`.
    """

    order: ClassVar[int] = 80
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(
        self,
        folder: str | Path = "checkpoints",
        every_epoch: int = 1,
        resume: str | Path | None = None,
        on_error: OnError = "warn",
    ) -> None:
        if every_epoch < 1:
            raise ValueError(
                f"every_epoch={every_epoch} must be at least 1: it is the number of epochs between "
                "checkpoints."
            )
        self.folder, self.every_epoch, self.resume = Path(folder), every_epoch, resume
        self._errors = WriteErrors(self, on_error)
        self._forget()

    def _forget(self) -> None:
        self._resumed: dict[str, Any] | None = None
        self._source = self.path
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._n_done = 0
        self._rng_before: dict[str, Any] = {}
        self._trained: dict[str, Any] | None = None
        self._next_epoch: int | None = None

    @property
    def path(self) -> Path:
        """Path of the latest checkpoint."""
        return self.folder / LAST

    def before_fit(self, learn: Learner) -> None:
        """Removes partial files of killed processes, then restores the resumed checkpoint."""
        self._forget()
        self._errors.reset()
        remove_partial(self.folder)
        if self.resume is not None:
            path = Path(self.resume)
            path = path / LAST if path.is_dir() else path
            remove_partial(path.parent)
            self._resume(learn, path)
            self.resume = None

    def _resume(self, learn: Learner, path: Path) -> None:
        state, self._source = read_checkpoint(path), path
        load_learner_state(learn, copy.deepcopy(state), path)
        learn.start_epoch = learn.epoch = state["epoch"]
        if state["n_done"]:
            self._resumed = state

    def before_epoch(self, learn: Learner) -> None:
        """Resets the position within the epoch."""
        self._begin_epoch()

    def before_train(self, learn: Learner) -> None:
        """Skips the batches that were already trained before the interrupt."""
        state = self._resumed
        if state is None:
            self._rng_before = learner_rng_state(learn)
            return
        self._n_done = learn.first_iter = state["n_done"]
        self._rng_before = state["rng_before"]
        if state["trained"]:
            learn.dl = ()
        else:
            before, after = (
                lambda: self._rewind(learn),
                lambda: self._catch_up(learn),
            )
            learn.dl = _Rest(learn.dl, self._n_done, before, after)

    def _rewind(self, learn: Learner) -> None:
        with matching(self._source, "the random number generators"):
            set_learner_rng_state(learn, self._rng_before)

    def _catch_up(self, learn: Learner) -> None:
        # The checkpoint was written after the last trained batch (or after training). On the way to
        # that point, callbacks handled `before_epoch` and `before_train` again and may have changed
        # the state, so the whole state is restored a second time.
        state, self._resumed = self._resumed, None
        if state is not None:
            load_learner_state(learn, state, self._source)

    def after_batch(self, learn: Learner) -> None:
        """Counts the trained batches of this epoch."""
        if learn.training:
            self._n_done = learn.iter + 1

    def after_train(self, learn: Learner) -> None:
        """Stores the state at the end of training, in case validation is interrupted."""
        self._catch_up(learn)
        if self._n_done:
            self._trained = self._state(learn, learn.epoch, trained=True)

    def after_epoch(self, learn: Learner) -> None:
        """Saves a checkpoint if one is due."""
        self._begin_epoch()
        self._next_epoch = learn.epoch + 1
        if self._is_due(learn):
            self._save(self._state(learn, self._next_epoch))

    def _is_due(self, learn: Learner) -> bool:
        return self._next_epoch is not None and (
            self._next_epoch % self.every_epoch == 0 or self._next_epoch == learn.n_epoch
        )

    def after_cancel_fit(self, learn: Learner) -> None:
        """Saves a checkpoint if the fit was interrupted."""
        if (
            learn.result.reason is StopReason.INTERRUPTED
            and (state := self._state_here(learn)) is not None
        ):
            self._save(state)

    def _state_here(self, learn: Learner) -> dict[str, Any] | None:
        if self._next_epoch is not None:
            return None if self._is_due(learn) else self._state(learn, self._next_epoch)
        if not learn.training:
            return self._trained
        between_batches = self._n_done > 0 and self._n_done == learn.iter + 1
        return self._state(learn, learn.epoch) if between_batches else None

    def _state(self, learn: Learner, epoch: int, *, trained: bool = False) -> dict[str, Any]:
        position = {
            "epoch": epoch,
            "n_done": self._n_done,
            "trained": trained,
            "rng_before": self._rng_before,
        }
        return learner_state(learn) | position

    def _save(self, state: dict[str, Any]) -> None:
        with self._errors.handled():
            write_checkpoint(state, self.path, previous=self.folder / PREVIOUS)

    def cleanup_fit(self, learn: Learner) -> None:
        """Releases the stored states, and logs how many checkpoints could not be written."""
        self._forget()
        self._errors.report()


class _Rest:
    """Iterates over the batches of a loader after the first `n_done`.

    The first `n_done` batches are loaded and discarded. `before` is called before the first batch
    is loaded, and `after` once all `n_done` batches have been discarded.
    """

    def __init__(
        self, dl: Iterable[Any], n_done: int, before: Callable[[], None], after: Callable[[], None]
    ) -> None:
        self._dl, self._n_done, self._before, self._after = dl, n_done, before, after

    def __iter__(self) -> Iterator[Any]:
        self._before()
        batches = iter(self._dl)
        n_drawn = sum(1 for _ in islice(batches, self._n_done))
        if n_drawn < self._n_done:
            raise CheckpointError(
                f"The training loader yielded only {n_drawn} batches, but {self._n_done} were "
                "trained before the interrupt: resume with the same data."
            )
        self._after()
        yield from batches
