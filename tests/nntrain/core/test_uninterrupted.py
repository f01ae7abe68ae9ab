"""A step that must not be cut off delays the exit, and another process can see it."""

import tempfile
import threading
from collections.abc import Iterator

import pytest

from nntrain.core import uninterrupted as module
from nntrain.core.uninterrupted import (
    is_in_step,
    show_steps_in,
    uninterrupted,
    wait_until_interruptible,
)


@pytest.fixture
def mark() -> Iterator[int]:
    with tempfile.TemporaryFile(buffering=0) as file:
        show_steps_in(file.fileno())
        yield file.fileno()
        module._marks.clear()


def test_steps_of_several_threads_are_awaited_and_shown(mark: int) -> None:
    assert wait_until_interruptible(0)
    go_on = threading.Event()

    def work() -> None:
        with uninterrupted():
            go_on.wait(10)

    thread = threading.Thread(target=work)
    with uninterrupted():
        thread.start()
        assert not wait_until_interruptible(0.01)
    assert not wait_until_interruptible(0.01)
    assert is_in_step(mark)
    go_on.set()
    assert wait_until_interruptible(10)
    assert not is_in_step(mark)
    thread.join()


def test_a_step_that_fails_has_ended() -> None:
    with pytest.raises(ValueError, match="boom"), uninterrupted():
        raise ValueError("boom")
    assert wait_until_interruptible(0)
