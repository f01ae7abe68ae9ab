"""Starts and controls the shipper from the training process."""

from __future__ import annotations

import atexit
import fcntl
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from nntrain.config.instantiate import Node
from nntrain.core.uninterrupted import is_in_step
from nntrain.integrations.journal.writer import is_being_written
from nntrain.integrations.shipping.backlog import Backlog, backlog, sync_command
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.destinations import sync_options
from nntrain.integrations.shipping.progress import DeliveryBar
from nntrain.integrations.shipping.send import trust_the_record
from nntrain.integrations.shipping.signals import stop_signals_blocked
from nntrain.integrations.shipping.spec import spec_of
from nntrain.integrations.shipping.state import read_state
from nntrain.integrations.tracker import Tracker

_LOG = logging.getLogger("nntrain")

FINISH_TIMEOUT_S = 30.0
"""Seconds that the training process waits for unfinished deliveries before it exits."""

INTERRUPTED_TIMEOUT_S = 5.0
"""Seconds to wait after SIGINT or SIGTERM; a scheduler may soon kill the process."""

STOP_TIMEOUT_S = 1.0
"""Seconds between the request to stop and the kill of a shipper that does not answer."""

CHECK_EVERY_S = 1.0
"""Seconds between two checks of the shipper."""


@dataclass(frozen=True)
class Shipment:
    """A journal, and the trackers that receive it, by name."""

    journal: Path
    trackers: Mapping[str, Tracker]
    trusted: Sequence[str] = ()


class Shipper(Protocol):
    """Delivers journals to their trackers."""

    def add(self, shipment: Shipment) -> None:
        """Starts delivery of a journal, or continues it after the run was resumed."""

    def check(self) -> None:
        """Restarts a dead shipper and logs delivery errors.

        Must return quickly, because training calls this method often.
        """

    def ended(self, shipment: Shipment) -> None:
        """Tells the shipper that the run has ended and its journal is complete."""

    def release(self, journal: Path) -> None:
        """Stops delivering a journal because another journal continues its run."""

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """Waits until everything is delivered, and returns what is still undelivered."""


class Offline:
    """Delivers nothing; run `python -m nntrain.sync` later to deliver the journals."""

    def add(self, shipment: Shipment) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def ended(self, shipment: Shipment) -> None:
        """Does nothing."""

    def release(self, journal: Path) -> None:
        """Does nothing."""

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """Returns an empty list, because nothing should be delivered now."""
        return []


class InProcess:
    """Delivers in the training process when the run ends; for tests with `MemoryTracker`."""

    def add(self, shipment: Shipment) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def ended(self, shipment: Shipment) -> None:
        """Delivers the journal."""
        for name, tracker in shipment.trackers.items():
            delivery = Delivery(shipment.journal, name, tracker, trust_the_record)
            while delivery.advance():
                pass

    def release(self, journal: Path) -> None:
        """Does nothing."""

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """Returns an empty list, because `ended` has delivered everything."""
        return []


class ShipperProcess:
    """Runs the shipper as a child process.

    The shipper has its own process group, so Ctrl-C in the terminal does not stop it. The
    shipper stays in the session of the training process, because a lower priority takes effect only
    within one session. If the shipper dies, it is restarted once. If it cannot be started, training
    continues, and it is tried again.

    A process that is forked from this one does not use the shipper: if it tracks a run, it starts
    its own.

    Args:
        finish_timeout_s: seconds that `finish` waits by default.
        interrupt_timeout_s: seconds that the shipper continues after `leave`.
    """

    def __init__(
        self,
        finish_timeout_s: float = FINISH_TIMEOUT_S,
        interrupt_timeout_s: float = INTERRUPTED_TIMEOUT_S,
    ) -> None:
        self.finish_timeout_s = finish_timeout_s
        self.interrupt_timeout_s = interrupt_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._left: list[int] = []
        self._pipe = self._mark = -1
        self._folder: str | None = None
        self._specs: list[Node] = []
        self._trusted: Sequence[str] = ()
        self._shipments: dict[Path, Shipment] = {}
        self._ended: set[Path] = set()
        self._n_start = 0
        self._cannot_start = False
        self._next_check = 0.0
        self._told: set[tuple[Path, str]] = set()
        _SHIPPERS.add(self)

    def forget(self) -> None:
        """Gives up the shipper of the parent process, in a process that was just forked."""
        if self._process is not None:
            _let_go(self._process)
            self._drop()
        self._shipments, self._ended, self._n_start = {}, set(), 0
        self._left, self._told = [], set()

    def start(self, trackers: Mapping[str, Tracker], trusted: Sequence[str] = ()) -> None:
        """Starts the shipper unless it is running. The shipper imports the trackers' libraries."""
        if self._process is None:
            self._folder = os.getcwd()
            self._specs = [spec_of(tracker) for tracker in trackers.values()]
            self._trusted = list(trusted)
            self._launch()

    def _launch(self) -> None:
        """Starts the process; if the machine has no room for it, `check` tries again later."""
        try:
            self._open_process()
        except OSError as err:
            self._warn_of_no_start(err)
            return
        self._n_start += 1
        self._say({"sys_path": sys.path, "connect": self._specs, "trusted": self._trusted})
        self._say({"finish_timeout_s": self.finish_timeout_s})

    def _open_process(self) -> None:
        main = Path(__file__).with_name("shipper_main.py")
        with ExitStack() as opened:
            theirs, pipe = _pipe()
            opened.callback(os.close, pipe)
            with _closing(theirs):
                mark = _mark()
                opened.callback(os.close, mark)
                with stop_signals_blocked():
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", str(main), *map(str, (theirs, mark, os.getpid()))],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        pass_fds=[theirs, mark],
                        process_group=0,
                        cwd=self._folder,
                    )
            self._pipe, self._mark = pipe, mark
            opened.pop_all()

    def _warn_of_no_start(self, err: OSError) -> None:
        if not self._cannot_start:
            self._cannot_start = True
            _LOG.warning(
                "the shipper cannot be started (%s): training continues, and everything stays in "
                "the journal.",
                err,
            )

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._process is None:
            return
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._pipe, data) :]
        except BrokenPipeError:
            return  # the shipper has died; `check` restarts it

    def add(self, shipment: Shipment) -> None:
        """Starts delivery of a journal."""
        self._shipments[shipment.journal] = shipment
        self._ended.discard(shipment.journal)
        self.start(shipment.trackers, shipment.trusted)
        self._say_shipment(shipment)

    def _say_shipment(self, shipment: Shipment) -> None:
        specs = {name: spec_of(tracker) for name, tracker in shipment.trackers.items()}
        self._say(
            {"journal": str(shipment.journal), "trackers": specs, "trusted": list(shipment.trusted)}
        )

    def check(self) -> None:
        """Restarts the shipper if it has died, and logs one warning for each failing tracker."""
        if (now := time.monotonic()) < self._next_check:
            return
        self._next_check = now + CHECK_EVERY_S
        # `finish` stopped the shipper, but a run continues
        if self._process is None and self._shipments:
            self._launch()
            self._say_shipments()
        elif self._process is not None and self._process.poll() is not None:
            self._restart()
        self._forget_delivered()
        for journal, name in self._deliveries():
            self._warn_of_error(journal, name)

    def _forget_delivered(self) -> None:
        for journal in [journal for journal in self._ended if not self._backlogs(journal)]:
            self._ended.remove(journal)
            del self._shipments[journal]

    def _backlogs(self, journal: Path) -> list[Backlog]:
        trackers = self._shipments[journal].trackers
        return [
            replace(missing, options=sync_options(tracker))
            for name, tracker in trackers.items()
            if (missing := backlog(journal, name)) is not None
        ]

    def _restart(self) -> None:
        assert self._process is not None
        if self._n_start > 1:
            self._warn_of_death()
            return
        _LOG.warning(
            "the shipper died (exit code %s): restarting it.",
            self._process.returncode,
        )
        self._drop()
        self._launch()
        self._say_shipments()

    def _warn_of_death(self) -> None:
        for journal, name in self._deliveries():
            if (journal, name) not in self._told:
                self._told.add((journal, name))
                _LOG.warning(
                    "the shipper died again: deliver %s to %s with %s.",
                    journal,
                    name,
                    sync_command(
                        journal.parent, sync_options(self._shipments[journal].trackers[name])
                    ),
                )

    def _say_shipments(self) -> None:
        for shipment in self._shipments.values():
            self._say_shipment(shipment)

    def release(self, journal: Path) -> None:
        """Stops delivery of a journal immediately; deliveries of other journals continue."""
        self._ended.discard(journal)
        if self._shipments.pop(journal, None) is not None and self._process is not None:
            self._stop()
            self._n_start -= 1  # do not count this start as a restart after a crash
            self._launch()
            self._say_shipments()

    def _deliveries(self) -> Iterator[tuple[Path, str]]:
        for journal, shipment in self._shipments.items():
            yield from ((journal, name) for name in shipment.trackers)

    def _warn_of_error(self, journal: Path, name: str) -> None:
        if (journal, name) in self._told or (error := read_state(journal, name).error) is None:
            return
        self._told.add((journal, name))
        _LOG.warning(
            "delivery to %s failed (%s): the run is safe in %s, and delivery will be retried.",
            name,
            error,
            journal,
        )

    def ended(self, shipment: Shipment) -> None:
        """Marks the journal as complete; `check` forgets the journal after its delivery."""
        if self._process is None or shipment.journal not in self._shipments:
            self.add(shipment)  # `finish` stopped the shipper during the run
        self._ended.add(shipment.journal)

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """Waits for delivery, stops the shipper, and returns what is still undelivered.

        If a run is still open, the shipper starts again to deliver the rest of this run.

        Args:
            timeout_s: maximum time to wait, in seconds; `None` uses `finish_timeout_s`.
        """
        self._left = [pid for pid in self._left if not _has_ended(pid)]
        if self._process is None:
            return self._all_backlogs() if self._cannot_start else []
        try:
            if self._shipments:
                self._wait(self.finish_timeout_s if timeout_s is None else timeout_s)
        except KeyboardInterrupt:
            pass  # the user does not want to wait; the journal still contains everything
        finally:
            self._stop()
        left = self._all_backlogs()
        self._shipments = {
            journal: shipment
            for journal, shipment in self._shipments.items()
            if journal not in self._ended and _is_open(journal)
        }
        self._ended, self._n_start = set(), 0
        return left

    def _all_backlogs(self) -> list[Backlog]:
        return [missing for journal in self._shipments for missing in self._backlogs(journal)]

    def leave(self) -> None:
        """Leaves the shipper on its own: it exits after `interrupt_timeout_s` seconds at most."""
        if self._process is None:
            return
        self._say({"finish_timeout_s": self.interrupt_timeout_s, "bye": True})
        self._left.append(_let_go(self._process))
        self._drop()

    def _wait(self, timeout_s: float) -> None:
        self._next_check = 0.0
        self.check()
        self._say({"bye": True})
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        with DeliveryBar(list(self._deliveries())) as bar:
            while self._process.poll() is None and time.monotonic() < deadline:
                bar.draw()
                time.sleep(0.02)

    def _stop(self) -> None:
        """Asks the shipper to stop, and kills it if it does not answer.

        The kill is safe, because the journal and the delivery states are on disk. A shipper that is
        changing the tables of a database is left to finish this step; it exits after it.
        """
        assert self._process is not None
        self._say({"stop": True})
        try:
            self._process.wait(STOP_TIMEOUT_S if self._shipments else 0)
        except subprocess.TimeoutExpired:
            if is_in_step(self._mark):
                self._left.append(_let_go(self._process))
            else:
                self._process.kill()
                self._process.wait()
        self._drop()

    def _drop(self) -> None:
        os.close(self._pipe)
        os.close(self._mark)
        self._process = None


_SHIPPERS: weakref.WeakSet[ShipperProcess] = weakref.WeakSet()


def _let_go(process: subprocess.Popen[bytes]) -> int:
    """Keeps `Popen` from warning about a process that ends by itself; returns its id."""
    process.returncode = 0
    return process.pid


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _forget_all() -> None:
    for shipper in list(_SHIPPERS):
        shipper.forget()


os.register_at_fork(after_in_child=_forget_all)


def _pipe() -> tuple[int, int]:
    """Returns the two ends of a pipe."""
    reader, writer = os.pipe()
    return _above_streams(reader), _above_streams(writer)


def _mark() -> int:
    """Returns a file in which the shipper shows whether it may be killed."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"0")
        return _above_streams(os.dup(file.fileno()))


@contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


def _above_streams(fd: int) -> int:
    """Moves a descriptor away from the numbers of the standard streams.

    The numbers 0 to 2 are free if the process was started with closed streams.
    """
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def _is_open(journal: Path) -> bool:
    return journal.exists() and is_being_written(journal)


@cache
def shared_shipper() -> ShipperProcess:
    """Returns the shipper that all runs of this process share.

    When the process exits, it waits for the shipper to finish.
    """
    shipper = ShipperProcess()
    atexit.register(_finish_at_exit, shipper)
    return shipper


def tell_backlog(left: Sequence[Backlog]) -> None:
    """Prints what was not delivered, and the command that delivers it."""
    for missing in left:
        print(f"nntrain: {missing}. To deliver the rest, run: {missing.remedy}", file=sys.stderr)


def _finish_at_exit(shipper: ShipperProcess) -> None:
    tell_backlog(shipper.finish())
