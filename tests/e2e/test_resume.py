"""Interrupted or killed training that is resumed gives the results of uninterrupted training."""

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from signal import Signals
from typing import Any

import pytest
import torch

from nntrain.checkpoint import read_checkpoint
from tests.common.runs import assert_identical
from tests.e2e.train_and_save import Place, train

pytestmark = pytest.mark.slow

LAST = "checkpoints/last.ckpt"
N_BATCH = 16


def _start(
    folder: Path, place: Place | None, resume: str | None
) -> tuple[ForkServerProcess, Connection]:
    # The fork server imports torch once for all processes. Each process handles its own signals.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train.__module__])
    ours, theirs = context.Pipe()
    process = context.Process(target=_train_in, args=(folder, place, theirs, resume))
    process.start()
    return process, ours


def _train_in(folder: Path, place: Place | None, tests: Connection, resume: str | None) -> None:
    os.chdir(folder)
    train(place, tests, resume)


def _run_to_the_end(folder: Path, resume: str | None = None) -> dict[str, Any]:
    process, _ = _start(folder, None, resume)
    process.join(120)
    assert process.exitcode == 0
    outcome: dict[str, Any] = torch.load(folder / "out.pt", weights_only=True)
    return outcome


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The results of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        # the fork server does not inherit `sys.path` from pytest
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield _run_to_the_end(tmp_path_factory.mktemp("alone"))


def _run_until(signum: Signals, place: Place, resume: str | None = None) -> int | None:
    process, connection = _start(Path.cwd(), place, resume)
    assert connection.poll(120)
    assert process.pid is not None
    os.kill(process.pid, signum)
    if signum is not signal.SIGKILL:
        connection.send("go on")
    process.join(120)
    return process.exitcode


def _position() -> Place:
    state = read_checkpoint(LAST)
    return state["epoch"], state["n_done"], not state["trained"]


def test_run_that_is_interrupted_killed_and_resumed_equals_an_uninterrupted_one(
    expected: dict[str, Any],
) -> None:
    rng = random.Random(0)
    step, killed, late = (rng.randrange(N_BATCH) for _ in range(3))

    assert _run_until(signal.SIGTERM, (0, step, True)) == 128 + signal.SIGTERM
    assert _position() == (0, step + 1, True)
    assert _run_until(signal.SIGTERM, (1, rng.randrange(4), False), LAST) == 128 + signal.SIGTERM
    assert _position() == (1, N_BATCH, False)
    assert _run_until(signal.SIGKILL, (2, killed, True), LAST) == -signal.SIGKILL
    assert _position() == (2, 0, True)
    assert _run_until(signal.SIGINT, (3, late, True), LAST) == 128 + signal.SIGINT
    assert _position() == (3, late + 1, True)

    actual = _run_to_the_end(Path.cwd(), LAST)
    assert sorted(os.listdir("checkpoints")) == ["last.ckpt", "previous.ckpt"]
    assert_identical(actual, expected)


@pytest.mark.parametrize("seed", range(10))
def test_run_killed_at_a_random_step_and_resumed_equals_an_uninterrupted_one(
    seed: int, expected: dict[str, Any]
) -> None:
    rng = random.Random(seed)
    assert (
        _run_until(signal.SIGKILL, (rng.randrange(1, 4), rng.randrange(N_BATCH), True))
        == -signal.SIGKILL
    )
    assert_identical(_run_to_the_end(Path.cwd(), LAST), expected)
