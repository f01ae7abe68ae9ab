"""The shipper: a process that delivers the growing journals of one training process.

The training process, the parent, sends messages through a pipe: which trackers to import and which
journals to deliver. The shipper does not read its standard input and writes only to its log. Each
pair of journal and tracker has its own thread, so an unreachable server does not delay other
deliveries. When no more messages will arrive, the shipper delivers the rest and exits. If the
parent has died, the shipper first closes the journals that have no end record.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nntrain.config.instantiate import Node
from nntrain.core.sinks import open_below
from nntrain.core.uninterrupted import show_steps_in, wait_until_interruptible
from nntrain.integrations.capture.niceness import children_give_way, give_way
from nntrain.integrations.capture.system import SystemMetrics
from nntrain.integrations.journal.closing import close_journal
from nntrain.integrations.journal.records import JournalError
from nntrain.integrations.journal.writer import is_being_written
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.lock import DeliveredByAnotherError, delivery_lock
from nntrain.integrations.shipping.parent import Parent
from nntrain.integrations.shipping.send import trust_the_record
from nntrain.integrations.shipping.spec import tracker_of
from nntrain.integrations.shipping.state import error_text, read_state, write_state
from nntrain.integrations.tracker import MetricRow, Tracker

_LOG = logging.getLogger("nntrain.shipper")

POLL_S = 0.2
"""Seconds between two checks of a journal and of the parent."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 5.0
"""Seconds before the first retry of a delivery, and the maximum between two attempts."""

SYSTEM_FIRST_S, SYSTEM_EVERY_S = 1.0, 10.0
"""Seconds before the first sample of system metrics, and between two samples."""

AT_ONCE = 4
"""Maximum number of runs that are delivered to one tracker simultaneously.

Many short trials may end at the same time, and MLflow's SQLite store stalls if more threads send
requests than the store has connections (15).
"""

KEPT_SAMPLES = 1000
"""Maximum number of samples to buffer while a tracker fails; older samples are dropped."""

UNINTERRUPTED_S = 60.0
"""Seconds to wait before the exit for a tracker that is changing the tables of its database."""

LOG = "shipper.log"
"""The file name of the shipper's log in the folder of the run."""


def wait_s(n_tries: int) -> float:
    """Returns the seconds to wait after `n_tries` failures: exponential backoff with jitter."""
    longest: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(n_tries, 10))
    return longest * random.uniform(0.5, 1.0)


_TURNS: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(AT_ONCE))


class DeliveryThread(threading.Thread):
    """Delivers one journal to one tracker until its run has ended, and retries after each error."""

    def __init__(self, delivery: Delivery, pid: int) -> None:
        super().__init__(name=f"{delivery.name} {delivery.journal}", daemon=True)
        self.delivery = delivery
        self._system = SystemMetrics(pid) if delivery.tracker.system_metrics else None
        self._samples: list[MetricRow] = []
        self._next_sample = time.monotonic() + SYSTEM_FIRST_S
        self._turn = _TURNS[delivery.name]

    def run(self) -> None:
        """Delivers until the whole run has been delivered."""
        while not self.delivery.is_current():
            time.sleep(self._try())

    def _try(self) -> float:
        """Delivers the new records; returns the seconds to wait before the next attempt."""
        self._sample()
        try:
            with self._turn:
                moved = self.delivery.advance()
                self._send_samples()
        except Exception as err:  # noqa: BLE001 - every error of a tracker's library is retried
            self.delivery.failed(err)
            state = self.delivery.state
            _LOG.warning("%s: attempt %d failed: %s", self.name, state.n_tries, state.error)
            return wait_s(state.n_tries)
        return 0.0 if moved else POLL_S

    def _sample(self) -> None:
        """Samples system metrics at regular intervals, even while the tracker fails."""
        now = time.monotonic()
        if self._system is None or now < self._next_sample:
            return
        self._next_sample = now + SYSTEM_EVERY_S
        if values := self._system.sample():
            row = MetricRow(time.time_ns() // 1_000_000, self.delivery.last_step, values)
            self._samples = [*self._samples[-KEPT_SAMPLES:], row]

    def _send_samples(self) -> None:
        if self._samples and self.delivery.has_started:
            samples, self._samples = self._samples, []
            self.delivery.client.system(samples)


class JournalDeliveries:
    """The deliveries of one journal; they wait while another process delivers the journal.

    Args:
        journal: the journal.
        trackers: the trackers to deliver to, by name.
        pid: the process id of the training process.
    """

    def __init__(self, journal: Path, trackers: Mapping[str, Tracker], pid: int) -> None:
        self.journal = journal
        self._trackers, self._pid = trackers, pid
        self._lock = ExitStack()
        self._threads: list[DeliveryThread] | None = None

    @property
    def is_done(self) -> bool:
        """Whether the run has ended and every tracker has received it."""
        return self._threads is not None and not any(map(_is_needed, self._threads))

    def tend(self) -> None:
        """Starts the deliveries once the lock is free, and restarts deliveries of resumed runs."""
        if self._threads is None:
            self._threads = self._start_threads()
        for i, thread in enumerate(self._threads or ()):
            if not thread.is_alive() and _is_needed(thread):
                assert self._threads is not None
                self._threads[i] = self._start_thread(thread.delivery)

    def _start_threads(self) -> list[DeliveryThread] | None:
        try:
            self._lock.enter_context(delivery_lock(self.journal))
        except DeliveredByAnotherError:
            return None
        _LOG.info("delivering %s to %s", self.journal, ", ".join(self._trackers))
        return [
            self._start_thread(Delivery(self.journal, name, tracker, trust_the_record))
            for name, tracker in self._trackers.items()
        ]

    def _start_thread(self, delivery: Delivery) -> DeliveryThread:
        thread = DeliveryThread(delivery, self._pid)
        thread.start()
        return thread

    def close(self) -> None:
        """Releases the lock, so that other processes may deliver the journal."""
        self._lock.close()


def _is_needed(thread: DeliveryThread) -> bool:
    return thread.is_alive() or not thread.delivery.is_current()


class Deliveries:
    """The deliveries of all journals that the parent has announced."""

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self._deliveries: dict[Path, JournalDeliveries] = {}
        self._unclosed: set[Path] | None = None
        self._finish_timeout_s = 30.0
        self._must_stop = False

    def run(self) -> None:
        """Delivers until the parent has sent its last message and nothing is left to deliver.

        If the parent has died, delivery stops after a timeout. If the parent asks for it, delivery
        stops immediately.
        """
        deadline = None
        while not self.parent.is_silent or self._deliveries:
            for message in self.parent.messages(POLL_S):
                self._take(message)
            if self._must_stop:
                return
            if self.parent.is_silent and self.parent.has_died:
                deadline = deadline or time.monotonic() + self._finish_timeout_s
                self._close_journals()
            self._tend()
            if deadline is not None and time.monotonic() > deadline:
                _LOG.warning(
                    "the training process has ended and the time limit is reached: "
                    "deliver the rest with python -m nntrain.sync"
                )
                return

    def _tend(self) -> None:
        for journal, deliveries in list(self._deliveries.items()):
            deliveries.tend()
            if deliveries.is_done:
                self._deliveries.pop(journal).close()

    def _take(self, message: Mapping[str, Any]) -> None:
        self._finish_timeout_s = message.get("finish_timeout_s", self._finish_timeout_s)
        self._must_stop |= message.get("stop", False)
        if "connect" in message:
            self._set_up(message["sys_path"], message["connect"], message["trusted"])
        if "journal" in message:
            self._add(Path(message["journal"]), message["trackers"], message["trusted"])

    def _set_up(
        self, sys_path: Sequence[str], specs: Sequence[Node], trusted: Sequence[str]
    ) -> None:
        sys.path.extend(path for path in sys_path if path not in sys.path)
        for spec in specs:
            _import_library(spec, trusted)
        children_give_way()
        give_way()  # imports run at normal priority, because they do not slow down training

    def _add(self, journal: Path, specs: Mapping[str, Node], trusted: Sequence[str]) -> None:
        log_to(journal.parent / LOG)
        if journal not in self._deliveries:
            self._deliveries[journal] = JournalDeliveries(
                journal, _trackers_of(journal, specs, trusted), self.parent.pid
            )

    def _close_journals(self) -> None:
        """Closes the parent's open journals, except those that a forked worker still has open."""
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
            _LOG.warning("%s cannot be closed: %s", journal, err)
            if journal in self._deliveries:
                self._deliveries.pop(journal).close()


def _import_library(spec: Node, trusted: Sequence[str]) -> None:
    """Connects once, so that the tracker's library is imported before the first journal."""
    try:
        tracker_of(spec, trusted).connect()
    except Exception:  # noqa: BLE001 - the delivery reports the error; other trackers continue
        _LOG.exception("%s cannot be imported", spec["_target_"])


def _trackers_of(
    journal: Path, specs: Mapping[str, Node], trusted: Sequence[str]
) -> dict[str, Tracker]:
    """Creates the trackers; if a tracker fails, stores the error in its delivery state."""
    made = {}
    for name, spec in specs.items():
        try:
            made[name] = tracker_of(spec, trusted, f"tracker.{name}")
        except Exception as err:  # noqa: BLE001 - a user's class may raise anything
            state = read_state(journal, name)
            state.error = error_text(err)
            write_state(journal, name, state)
            _LOG.warning("%s: %s", journal, state.error)
    return made


def log_to(path: Path) -> None:
    """Redirects the output of this process and its libraries to a file, if it can be written."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        fd = open_below(path.parent, path.name, flags)
    except OSError as err:
        _LOG.warning("%s: the output is not kept", err)
        return
    with open(fd, "ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())


def main(fd: int, mark: int, pid: int) -> None:
    """Delivers the journals that the process `pid`, the parent, announces through the pipe `fd`.

    Args:
        fd: the pipe.
        mark: the file in which the parent sees whether this process may be killed.
        pid: the process id of the parent.
    """
    show_steps_in(mark)
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s"
    )
    _LOG.info("shipper process %d delivers the journals of process %d", os.getpid(), pid)
    Deliveries(Parent(fd, pid)).run()
    wait_until_interruptible(UNINTERRUPTED_S)
    _LOG.info("exits")
    logging.shutdown()
    os._exit(0)  # do not wait for threads that are waiting for a server
