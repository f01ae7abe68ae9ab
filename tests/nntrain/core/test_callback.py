"""The base class of callbacks: its methods, and the check for misspelled events."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from nntrain import Callback, Event, Learner, Purpose
from nntrain.core.callback import handles
from nntrain.testing import SpyCallback
from tests.common.toys import toy_learner


def nothing(self: Callback, learn: Learner) -> None:
    """A handler."""


def test_callback_declares_every_event_and_no_other_method_named_like_one() -> None:
    named = {name for name in dir(Callback) if name.startswith(("before_", "after_", "cleanup_"))}
    assert named == {event.value for event in Event}


@pytest.mark.parametrize("event", Event)
def test_an_event_is_accepted(event: Event) -> None:
    callback = type("Fine", (Callback,), {event.value: nothing})()
    assert [known for known in Event if handles(callback, known)] == [event]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("after_bacth", "after_batch"),
        ("before_epochs", "before_epoch"),
        ("after_predict", "after_pred"),
        ("before_valid", "before_validate"),
        ("after_cancel_validation", "after_cancel_validate"),
        ("cleanup_fits", "cleanup_fit"),
        ("cleanup_", "cleanup_fit"),
    ],
)
def test_a_misspelled_event_is_an_error_when_the_class_is_defined(name: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"Wrong.{name} is not an event: did you mean '{meant}'"):
        type("Wrong", (Callback,), {name: nothing})


def test_a_misspelled_event_of_a_mixin_is_an_error() -> None:
    class Mixin:
        def after_los(self, learn: Learner) -> None: ...

    with pytest.raises(TypeError, match="did you mean 'after_loss'"):
        type("Wrong", (Mixin, Callback), {})


def test_a_helper_method_may_have_any_other_name() -> None:
    callback = type(
        "Fine", (Callback,), {"batch_after": nothing, "_after_batch": nothing, "on_batch": nothing}
    )()
    assert not any(handles(callback, event) for event in Event)


def test_a_handler_is_inherited() -> None:
    class Parent(Callback):
        def after_batch(self, learn: Learner) -> None: ...

    class Child(Parent):
        pass

    assert handles(Child(), Event.AFTER_BATCH)
    assert not handles(Child(), Event.BEFORE_BATCH)


@pytest.mark.parametrize("event", Event)
def test_a_plain_callback_does_nothing(event: Event) -> None:
    getattr(Callback(), event.value)(toy_learner())


def test_a_plain_callback_has_no_state() -> None:
    callback = Callback()
    callback.load_state_dict({})
    assert callback.state_dict() == {}


def test_after_create_is_called_once_with_the_learner() -> None:
    seen: list[Learner] = []

    class Noting(Callback):
        def after_create(self, learn: Learner) -> None:
            seen.append(learn)

    learn = toy_learner(cbs=[Noting()])
    learn.fit(1)
    assert seen == [learn]


def with_order(order: int, name: str, log: list[str]) -> Callback:
    def before_fit(self: Callback, learn: Learner) -> None:
        log.append(name)

    members: dict[str, Any] = {"order": order, "before_fit": before_fit}
    callback: Callback = type(name, (Callback,), members)()
    return callback


def test_callbacks_run_by_order_and_then_as_they_were_added() -> None:
    log: list[str] = []
    learn = toy_learner(
        cbs=[with_order(5, "late", log), with_order(0, "first", log), with_order(0, "second", log)]
    )
    learn.add_cb(with_order(-5, "early", log)).add_cb(with_order(0, "third", log))
    learn.fit(1)
    assert log == ["early", "first", "second", "third", "late"]


def validate(learn: Learner) -> object:
    return learn.validate()


def get_preds(learn: Learner) -> object:
    return learn.get_preds()


def fit(learn: Learner) -> object:
    return learn.fit(1)


@pytest.mark.parametrize(
    ("purpose", "run"),
    [(Purpose.FIT, fit), (Purpose.VALIDATE, validate), (Purpose.PREDICT, get_preds)],
)
def test_a_callback_runs_only_for_its_purposes(
    purpose: Purpose, run: Callable[[Learner], object]
) -> None:
    class Chosen(SpyCallback):
        purposes: ClassVar[frozenset[Purpose]] = frozenset({purpose})

    class Others(SpyCallback):
        purposes: ClassVar[frozenset[Purpose]] = frozenset(Purpose) - {purpose}

    chosen, others = Chosen(), Others()
    run(toy_learner(cbs=[chosen, others]))
    assert chosen.events[0] == "before_fit"
    assert chosen.events[-1] == "cleanup_fit"
    assert others.events == []
