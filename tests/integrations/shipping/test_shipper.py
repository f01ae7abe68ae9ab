"""What the shipper imports, how long it waits, and how many deliveries run concurrently."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from nntrain.integrations.memory import MemoryClient, MemoryTracker
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.parent import Parent
from nntrain.integrations.shipping.shipper import (
    AT_ONCE,
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    DeliveryThread,
    wait_s,
)
from nntrain.integrations.tracker import MetricRow
from tests.common.journals import END, START, append, batches

IMPORTS = """
import sys
import nntrain.integrations.shipping.shipper_main
print(*sys.modules)
"""

ROOMS = ("nntrain.config", "nntrain.core", "nntrain.integrations", "nntrain.lazy", "nntrain.result")
"""The parts of nntrain that the shipper may import."""


@pytest.mark.slow
def test_the_shipper_imports_neither_torch_nor_the_learner_nor_a_trackers_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    modules = done.stdout.split()
    assert [name for name in ("torch", "mlflow", "wandb", "hydra") if name in modules] == []
    own = [name for name in modules if name.startswith("nntrain.")]
    assert [name for name in own if not name.startswith(ROOMS)] == []
    assert len(own) < 40


@pytest.mark.parametrize(
    ("n_tries", "longest"), [(1, 2 * FIRST_WAIT_S), (2, 4 * FIRST_WAIT_S), (99, LONGEST_WAIT_S)]
)
def test_the_wait_doubles_with_each_try_up_to_a_maximum(n_tries: int, longest: float) -> None:
    waits = [wait_s(n_tries) for _ in range(200)]
    assert longest / 2 <= min(waits) < 0.6 * longest
    assert 0.9 * longest < max(waits) <= longest


class Crowded(MemoryTracker):
    def connect(self) -> MemoryClient:
        return CrowdedClient(self)


class CrowdedClient(MemoryClient):
    """Blocks each call until `AT_ONCE` calls are running, and counts the concurrent calls."""

    gate: ClassVar[threading.Barrier] = threading.Barrier(AT_ONCE)
    lock: ClassVar[threading.Lock] = threading.Lock()
    n_inside: ClassVar[int] = 0
    n_most: ClassVar[int] = 0

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        with CrowdedClient.lock:
            CrowdedClient.n_inside += 1
            CrowdedClient.n_most = max(CrowdedClient.n_most, CrowdedClient.n_inside)
        CrowdedClient.gate.wait(60)
        with CrowdedClient.lock:
            CrowdedClient.n_inside -= 1


def test_the_number_of_simultaneous_deliveries_to_a_tracker_is_limited(tmp_path: Path) -> None:
    journals = [append(tmp_path / str(i), [START, *batches(1, 7), END]) for i in range(5 * AT_ONCE)]
    threads = [
        DeliveryThread(Delivery(journal, "crowded", Crowded()), os.getpid()) for journal in journals
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(thread.delivery.is_current() for thread in threads)
    assert CrowdedClient.n_most == AT_ONCE


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_messages_of_the_parent_arrive_complete_and_in_order(pipe: tuple[int, int]) -> None:
    parent = Parent(pipe[0], os.getppid())
    os.write(pipe[1], b'{"a": 1}\n{"b"')
    assert list(parent.messages(1)) == [{"a": 1}]
    os.write(pipe[1], b': 2}\n{"bye": true}\n')
    assert not parent.is_silent
    assert list(parent.messages(1)) == [{"b": 2}, {"bye": True}]
    assert parent.is_silent


def test_a_parent_whose_pipe_is_closed_is_silent(pipe: tuple[int, int]) -> None:
    parent = Parent(pipe[0], os.getppid())
    assert list(parent.messages(0.01)) == []
    assert not parent.is_silent
    os.close(pipe[1])
    assert list(parent.messages(1)) == []
    assert parent.is_silent
    assert not parent.has_died


def test_the_last_messages_of_a_dead_parent_arrive_even_if_a_worker_holds_the_pipe(
    pipe: tuple[int, int],
) -> None:
    parent = Parent(pipe[0], 2**22 + 1)  # larger than any process id
    assert parent.has_died
    os.write(pipe[1], b'{"journal": "a"}\n')
    assert list(parent.messages(1)) == [{"journal": "a"}]
    assert not parent.is_silent
    assert list(parent.messages(0.01)) == []
    assert parent.is_silent
