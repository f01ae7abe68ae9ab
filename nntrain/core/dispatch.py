"""Finds the callbacks for each event, calls `cleanup_fit`, and prints the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from nntrain.core.callback import Callback, Purpose, handles
from nntrain.core.events import Event

if TYPE_CHECKING:
    from nntrain.learner import Learner

Handlers: TypeAlias = Mapping[Event, tuple[tuple[Callback, "Callable[[Learner], None]"], ...]]


def gather(cbs: Sequence[Callback], purpose: Purpose) -> Handlers:
    """Maps each event to the callbacks (and bound methods) that handle it for a purpose."""
    handlers: dict[Event, tuple[tuple[Callback, Callable[[Learner], None]], ...]] = {}
    for event in Event:
        acting = [cb for cb in cbs if purpose in cb.purposes and handles(cb, event)]
        if acting:
            handlers[event] = tuple((cb, getattr(cb, event.value)) for cb in acting)
    return handlers


def cleanup(
    learn: Learner, handlers: Handlers, failure: BaseException | None
) -> BaseException | None:
    """Calls `cleanup_fit` of all callbacks in reverse order, even if one of them fails.

    Returns:
        The exception to raise, or `None` if no callback failed. The exceptions of several callbacks
        are combined into an exception group. If the fit itself failed, all exceptions are added to
        `failure` as notes instead, and `None` is returned.
    """
    errors: list[BaseException] = []
    for cb, handler in reversed(handlers.get(Event.CLEANUP_FIT, ())):
        try:
            handler(learn)
        except BaseException as err:  # noqa: BLE001 - the other callbacks must clean up too
            err.add_note(f"nntrain: raised in {type(cb).__name__}.{Event.CLEANUP_FIT}")
            errors.append(err)
    if failure is not None:
        for error in errors:
            failure.add_note(f"nntrain: then {error!r} {' '.join(error.__notes__)}")
        return None
    if len(errors) > 1:
        return BaseExceptionGroup("Several callbacks raised an exception in cleanup_fit.", errors)
    return errors[0] if errors else None


_LOOP: tuple[tuple[int, Event | str], ...] = (
    (0, "fit"),
    (1, Event.BEFORE_FIT),
    (1, "each epoch"),
    (2, Event.BEFORE_EPOCH),
    (2, "train"),
    (3, Event.BEFORE_TRAIN),
    (3, "each batch"),
    (4, Event.BEFORE_BATCH),
    (4, Event.AFTER_PRED),
    (4, Event.AFTER_LOSS),
    (4, Event.BEFORE_BACKWARD),
    (4, Event.AFTER_CANCEL_BACKWARD),
    (4, Event.AFTER_BACKWARD),
    (4, Event.BEFORE_STEP),
    (4, Event.AFTER_CANCEL_STEP),
    (4, Event.AFTER_STEP),
    (4, Event.AFTER_CANCEL_BATCH),
    (4, Event.AFTER_BATCH),
    (3, Event.AFTER_CANCEL_TRAIN),
    (3, Event.AFTER_TRAIN),
    (2, "validate"),
    (3, Event.BEFORE_VALIDATE),
    (3, "each batch"),
    (4, Event.BEFORE_BATCH),
    (4, Event.AFTER_PRED),
    (4, Event.AFTER_LOSS),
    (4, Event.AFTER_CANCEL_BATCH),
    (4, Event.AFTER_BATCH),
    (3, Event.AFTER_CANCEL_VALIDATE),
    (3, Event.AFTER_VALIDATE),
    (2, Event.AFTER_CANCEL_EPOCH),
    (2, Event.AFTER_EPOCH),
    (1, Event.AFTER_CANCEL_FIT),
    (1, Event.AFTER_FIT),
    (1, Event.CLEANUP_FIT),
)


def training_loop_text(cbs: Sequence[Callback]) -> str:
    """Formats the training loop as indented text: each event, with its callbacks in call order."""
    lines = []
    for depth, item in _LOOP:
        acting = (
            [type(cb).__name__ for cb in cbs if handles(cb, item)]
            if isinstance(item, Event)
            else []
        )
        if item is Event.CLEANUP_FIT:
            acting.reverse()
        lines.append("  " * depth + item + (": " + ", ".join(acting) if acting else ""))
    return "\n".join(lines)


def show_training_loop(learn: Learner) -> str:
    """Prints and returns the training loop: each event, with its callbacks in call order."""
    text = training_loop_text(learn.cbs)
    print(text)
    return text
