"""The shipper: a process that hands the journals of one training process to their trackers, as they grow.

It is told by its parent, through a pipe, what to load and which journals there are; it never reads the standard input,
and writes to its log only. One thread for each journal and tracker, so that a dead server holds up nobody else. When the
parent has nothing more to say it delivers the rest and ends; when the parent has died it first closes the journals that say
of no end.
"""

from __future__ import annotations

import json
import logging
import os
import random
import select
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nntrain.integrations.capture.system import SystemMetrics, children_give_way, give_way
from nntrain.integrations.journal.records import JournalError, end_record, read_journal
from nntrain.integrations.journal.writer import append_if_free, is_being_written
from nntrain.integrations.mlflow import use_client_settings
from nntrain.integrations.shipping.delivery import (
    DeliveredByAnotherError,
    Delivery,
    delivery_lock,
    error_text,
    read_state,
    write_state,
)
from nntrain.integrations.shipping.spec import Node, tracker_of
from nntrain.integrations.tracker import OUTCOME_TAG, MetricRow, RunEnd, Tracker
from nntrain.result import StopReason

_LOG = logging.getLogger("nntrain.shipper")

POLL_S = 0.2
"""Seconds between two looks at a journal and at the parent."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 5.0
"""Seconds before the second try of what failed, and the most between two tries."""

SYSTEM_FIRST_S, SYSTEM_EVERY_S = 1.0, 10.0
"""Seconds before the first sample of the system's metrics, and between two of them."""

AT_ONCE = 4
"""Runs that are delivered to one tracker at the same time: many short trials end at once, and MLflow's SQLite comes to a
standstill when more threads ask than it has connections for (15)."""

KEPT_SAMPLES = 1000
"""So many samples wait for a tracker that takes nothing; older ones are dropped."""

LOG = "shipper.log"
"""The name of the shipper's log, in the folder of the run that it ships."""


def wait_s(n_tries: int) -> float:
    """Seconds to wait after so many failed tries: doubled each time, with jitter."""
    longest: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(n_tries, 10))
    return longest * random.uniform(0.5, 1.0)


_TURNS: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(AT_ONCE))


class DeliveryThread(threading.Thread):
    """Delivers one journal to one tracker until its run has ended, however often that fails."""

    def __init__(self, delivery: Delivery, pid: int) -> None:
        super().__init__(name=f"{delivery.name} {delivery.journal}", daemon=True)
        self.delivery = delivery
        self._system = SystemMetrics(pid) if delivery.tracker.system_metrics else None
        self._samples: list[MetricRow] = []
        self._next_sample = time.monotonic() + SYSTEM_FIRST_S
        self._turn = _TURNS[delivery.name]

    def run(self) -> None:
        """Delivers."""
        while not self.delivery.is_current():
            time.sleep(self._try())

    def _try(self) -> float:
        """Delivers what is there; returns how long to wait before the next try."""
        self._sample()
        try:
            with self._turn:
                moved = self.delivery.advance()
                self._send_samples()
        except Exception as err:  # noqa: BLE001 - whatever a tracker's library raises, it is tried again
            self.delivery.failed(err)
            _LOG.warning(
                "%s: try %d failed: %s",
                self.name,
                self.delivery.state.n_tries,
                self.delivery.state.error,
            )
            return wait_s(self.delivery.state.n_tries)
        return 0.0 if moved else POLL_S

    def _sample(self) -> None:
        """Takes a sample if it is time to, whether the tracker takes anything now or not."""
        now = time.monotonic()
        if self._system is None or now < self._next_sample:
            return
        self._next_sample = now + SYSTEM_EVERY_S
        if values := self._system.sample():
            row = MetricRow(time.time_ns() // 1_000_000, self.delivery.last_step, values)
            self._samples = [*self._samples[-KEPT_SAMPLES:], row]

    def _send_samples(self) -> None:
        if self._samples and self.delivery.state.run_id is not None:
            samples, self._samples = self._samples, []
            self.delivery.tracker.metrics(samples)


class JournalDeliveries:
    """The deliveries of one journal, as long as no other process delivers it.

    Args:
        journal: the journal.
        trackers: where to, by name.
        pid: the process that trains.
    """

    def __init__(self, journal: Path, trackers: Mapping[str, Tracker], pid: int) -> None:
        self.journal = journal
        self._trackers, self._pid = trackers, pid
        self._lock = ExitStack()
        self._threads: list[DeliveryThread] | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to deliver for now."""
        return self._threads is not None and not any(map(_is_needed, self._threads))

    def tend(self) -> None:
        """Begins the deliveries when no other process delivers the journal, and each anew whose run went on after its end."""
        if self._threads is None:
            self._threads = self._begun()
        for i, thread in enumerate(self._threads or ()):
            if not thread.is_alive() and _is_needed(thread):
                assert self._threads is not None
                self._threads[i] = self._started(thread.delivery)

    def _begun(self) -> list[DeliveryThread] | None:
        try:
            self._lock.enter_context(delivery_lock(self.journal))
        except DeliveredByAnotherError:
            return None
        _LOG.info("delivering %s to %s", self.journal, ", ".join(self._trackers))
        return [
            self._started(Delivery(self.journal, name, tracker))
            for name, tracker in self._trackers.items()
        ]

    def _started(self, delivery: Delivery) -> DeliveryThread:
        thread = DeliveryThread(delivery, self._pid)
        thread.start()
        return thread

    def close(self) -> None:
        """Lets other processes deliver the journal."""
        self._lock.close()


def _is_needed(thread: DeliveryThread) -> bool:
    return thread.is_alive() or not thread.delivery.is_current()


class Parent:
    """The training process: what it says, and whether it lives."""

    def __init__(self, fd: int, pid: int) -> None:
        self.pid = pid
        self._fd = fd
        self._buffer = b""
        self.is_silent = False
        """Whether it has nothing more to say."""

    @property
    def has_died(self) -> bool:
        """Whether the process is gone; then another one has become this one's parent."""
        return os.getppid() != self.pid

    def messages(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """What it has said since the last call; waits for something to be said."""
        has_died = self.has_died  # looked at before the pipe, so that its last words are not missed
        if self.is_silent or not select.select([self._fd], [], [], timeout_s)[0]:
            time.sleep(timeout_s if self.is_silent else 0)
            self.is_silent |= has_died
            return
        data = os.read(self._fd, 65536)
        *whole, self._buffer = (self._buffer + data).split(b"\n")
        messages = [json.loads(message) for message in whole]
        # a worker that training has forked holds the pipe open too, so that its end alone does not tell
        self.is_silent = not data or any("bye" in message for message in messages)
        yield from messages


class Shipper:
    """The deliveries in progress."""

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self._deliveries: dict[Path, JournalDeliveries] = {}
        self._unclosed: set[Path] | None = None
        self._finish_timeout_s = 30.0

    def run(self) -> None:
        """Ships until the parent has nothing more to say and all is delivered, or its time is up."""
        deadline = None
        while not self.parent.is_silent or self._deliveries:
            for message in self.parent.messages(POLL_S):
                self._take(message)
            if self.parent.is_silent and self.parent.has_died:
                deadline = deadline or time.monotonic() + self._finish_timeout_s
                self._close_journals()
            self._tend()
            if deadline is not None and time.monotonic() > deadline:
                _LOG.warning(
                    "the training process has gone and time is up: the rest is left to python -m nntrain.sync"
                )
                return

    def _tend(self) -> None:
        for journal, deliveries in list(self._deliveries.items()):
            deliveries.tend()
            if deliveries.is_done:
                self._deliveries.pop(journal).close()

    def _take(self, message: Mapping[str, Any]) -> None:
        self._finish_timeout_s = message.get("finish_timeout_s", self._finish_timeout_s)
        if "load" in message:
            self._set_up(message["sys_path"], message["load"], message["trusted"])
        if "journal" in message:
            self._add(Path(message["journal"]), message["trackers"], message["trusted"])

    def _set_up(
        self, sys_path: Sequence[str], nodes: Sequence[Node], trusted: Sequence[str]
    ) -> None:
        sys.path.extend(path for path in sys_path if path not in sys.path)
        for node in nodes:
            _load(node, trusted)
        children_give_way()
        give_way()  # not before: training imports and loads its data now as well, and neither waits for the other

    def _add(self, journal: Path, nodes: Mapping[str, Node], trusted: Sequence[str]) -> None:
        log_to(journal.parent / LOG)
        if journal not in self._deliveries:
            self._deliveries[journal] = JournalDeliveries(
                journal, _made(journal, nodes, trusted), self.parent.pid
            )

    def _close_journals(self) -> None:
        """Closes what the parent has left open; a worker that it has forked may hold a journal for a while after it."""
        if self._unclosed is None:
            self._unclosed = set(self._deliveries)
        for journal in list(self._unclosed):
            if not journal.exists() or not is_being_written(journal):
                self._unclosed.remove(journal)
                self._close(journal)

    def _close(self, journal: Path) -> None:
        try:
            close_journal(journal)
        except (JournalError, OSError) as err:
            _LOG.warning("%s cannot be closed and is let alone: %s", journal, err)
            if journal in self._deliveries:
                self._deliveries.pop(journal).close()


def _load(node: Node, trusted: Sequence[str]) -> None:
    try:
        tracker_of(node, trusted).load()
    except Exception:  # noqa: BLE001 - it is told where a journal is to be delivered to this tracker, and must not stop others
        _LOG.exception("%s cannot be loaded", node["_target_"])


def _made(journal: Path, nodes: Mapping[str, Node], trusted: Sequence[str]) -> dict[str, Tracker]:
    """The trackers that can be made; of the others the state of their delivery says why not."""
    made = {}
    for name, node in nodes.items():
        try:
            made[name] = tracker_of(node, trusted)
        except Exception as err:  # noqa: BLE001 - whatever a class of the user's raises, other trackers get the run
            state = read_state(journal, name)
            state.error = error_text(err)
            write_state(journal, name, state)
            _LOG.warning("%s: %s", journal, state.error)
    return made


def close_journal(journal: Path) -> bool:
    """Writes the end of a run whose process died without a word; returns whether there was need to."""
    record = read_journal(journal)
    if record.end is not None or record.continued_by is not None:
        return False
    last = max((int(series.step[-1]) for series in record.metrics.values()), default=0)
    message = (
        f"the process ended without a word after batch {last}: killed, out of memory, or crashed"
    )
    end = RunEnd(StopReason.INTERRUPTED, message, signal.SIGKILL, time.time_ns() // 1_000_000)
    tags = {OUTCOME_TAG: str(end.reason), "nntrain.message": message}
    return append_if_free(journal, [{"kind": "tags", "tags": tags}, end_record(end)])


def log_to(path: Path) -> None:
    """Lets all that this process and its libraries write go to a file."""
    with open(path, "ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())


def main(fd: int, pid: int) -> None:
    """Ships what the process `pid`, its parent, says through the pipe `fd`."""
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s"
    )
    use_client_settings()
    _LOG.info("process %d ships for process %d", os.getpid(), pid)
    Shipper(Parent(fd, pid)).run()
    _LOG.info("ends")
    logging.shutdown()
    os._exit(0)  # threads that still wait for a server must not hold up the end
