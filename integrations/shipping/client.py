"""The training process's side of shipping: starting the shipper, telling it of journals, and waiting for it at the end."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from nntrain.integrations.shipping.delivery import Backlog, Delivery, backlog, read_state
from nntrain.integrations.shipping.progress import DeliveryBar
from nntrain.integrations.shipping.spec import Node, node_of
from nntrain.integrations.tracker import Tracker

_LOG = logging.getLogger("nntrain")

FINISH_TIMEOUT_S = 30.0
"""Seconds that the end of the process waits for what is not yet delivered."""

INTERRUPTED_TIMEOUT_S = 5.0
"""The same for a process that was told to stop: what it runs under may kill it before long."""

CHECK_EVERY_S = 1.0
"""Seconds between two looks at the shipper."""


@dataclass(frozen=True)
class Shipment:
    """A journal, and the trackers by name that it goes to."""

    journal: Path
    trackers: Mapping[str, Tracker]
    trusted: Sequence[str] = ()


class Shipper(Protocol):
    """Takes journals to their trackers."""

    def add(self, shipment: Shipment) -> None:
        """Begins to deliver a journal; again after it has ended, where its run goes on."""

    def check(self) -> None:
        """Sees to it that deliveries go on, and tells of trouble; called often, returns at once."""

    def ended(self, shipment: Shipment) -> None:
        """Takes note that the run has ended and its journal is whole."""

    def release(self, journal: Path) -> None:
        """Delivers this journal no longer, for another one goes on with its run."""

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """Waits until all is delivered, and returns what is left."""


class Offline:
    """Ships nothing: the journals are delivered later, by `python -m nntrain.sync`."""

    def add(self, shipment: Shipment) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def ended(self, shipment: Shipment) -> None:
        """Does nothing."""

    def release(self, journal: Path) -> None:
        """Does nothing."""

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """Leaves everything, as it is meant to."""
        return []


class InProcess:
    """Delivers when the run has ended, in this process: for `MemoryTracker`, in tests."""

    def add(self, shipment: Shipment) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def ended(self, shipment: Shipment) -> None:
        """Delivers the journal."""
        for name, tracker in shipment.trackers.items():
            delivery = Delivery(shipment.journal, name, tracker)
            while delivery.advance():
                pass

    def release(self, journal: Path) -> None:
        """Does nothing."""

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """There is nothing left."""
        return []


class ShipperProcess:
    """The shipper of this process.

    It is a process group of its own, so that a Ctrl-C in the terminal does not reach it, in the session of this process, within
    which it gives way to it. If it dies another one is started, once.
    """

    def __init__(self, finish_timeout_s: float = FINISH_TIMEOUT_S) -> None:
        self.finish_timeout_s = finish_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._load: list[Node] = []
        self._trusted: Sequence[str] = ()
        self._shipments: dict[Path, Shipment] = {}
        self._ended: set[Path] = set()
        self._n_start = 0
        self._next_check = 0.0
        self._told: set[tuple[Path, str]] = set()

    def start(self, trackers: Mapping[str, Tracker], trusted: Sequence[str] = ()) -> None:
        """Starts the process if there is none, and has it import what the trackers need."""
        if self._process is None:
            self._load, self._trusted = (
                [node_of(tracker) for tracker in trackers.values()],
                list(trusted),
            )
            self._launch()

    def _launch(self) -> None:
        theirs, self._pipe = os.pipe()
        main = Path(__file__).with_name("shipper_main.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(main), str(theirs), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs],
            process_group=0,
        )
        os.close(theirs)
        self._n_start += 1
        self._say({"sys_path": sys.path, "load": self._load, "trusted": self._trusted})
        self._say({"finish_timeout_s": self.finish_timeout_s})

    def _say(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._pipe, data) :]
        except BrokenPipeError:
            return  # it has died, which `check` will see

    def add(self, shipment: Shipment) -> None:
        """Begins to deliver a journal."""
        self._shipments[shipment.journal] = shipment
        self._ended.discard(shipment.journal)
        self.start(shipment.trackers, shipment.trusted)
        self._say_shipment(shipment)

    def _say_shipment(self, shipment: Shipment) -> None:
        nodes: dict[str, Node] = {
            name: node_of(tracker) for name, tracker in shipment.trackers.items()
        }
        self._say(
            {"journal": str(shipment.journal), "trackers": nodes, "trusted": list(shipment.trusted)}
        )

    def check(self) -> None:
        """Starts the process again if it has died, and tells once of a tracker that does not take what it is sent."""
        if (now := time.monotonic()) < self._next_check:
            return
        self._next_check = now + CHECK_EVERY_S
        if self._process is not None and self._process.poll() is not None:
            self._start_again()
        self._forget_delivered()
        for journal, name in self._deliveries():
            self._tell_trouble(journal, name)

    def _forget_delivered(self) -> None:
        for journal in [journal for journal in self._ended if not self._backlogs(journal)]:
            self._ended.remove(journal)
            del self._shipments[journal]

    def _backlogs(self, journal: Path) -> list[Backlog]:
        names = self._shipments[journal].trackers
        return [missing for name in names if (missing := backlog(journal, name)) is not None]

    def _start_again(self) -> None:
        assert self._process is not None
        if self._n_start > 1:
            self._tell_dead()
            return
        _LOG.warning(
            "the shipper died (exit code %s): another one goes on.", self._process.returncode
        )
        os.close(self._pipe)
        self._launch()
        self._say_shipments()

    def _tell_dead(self) -> None:
        for journal, name in self._deliveries():
            if (journal, name) not in self._told:
                self._told.add((journal, name))
                _LOG.warning(
                    "the shipper died again: %s is kept in %s for python -m nntrain.sync.",
                    name,
                    journal,
                )

    def _say_shipments(self) -> None:
        for shipment in self._shipments.values():
            self._say_shipment(shipment)

    def release(self, journal: Path) -> None:
        """Delivers this journal no longer, and at once, whatever its tracker is busy with; the others go on."""
        if self._process is not None and self._shipments.pop(journal, None) is not None:
            self._ended.discard(journal)
            self._stop()
            self._n_start -= 1  # it did not die
            self._launch()
            self._say_shipments()

    def _deliveries(self) -> Iterator[tuple[Path, str]]:
        for journal, shipment in self._shipments.items():
            yield from ((journal, name) for name in shipment.trackers)

    def _tell_trouble(self, journal: Path, name: str) -> None:
        if (journal, name) in self._told or (error := read_state(journal, name).error) is None:
            return
        self._told.add((journal, name))
        _LOG.warning(
            "%s takes nothing at present (%s): the run is kept in %s and delivered when it does.",
            name,
            error,
            journal,
        )

    def ended(self, shipment: Shipment) -> None:
        """Takes note that this journal needs no more looking after once it is delivered."""
        self._ended.add(shipment.journal)

    def finish(self, timeout_s: float | None = None) -> list[Backlog]:
        """Waits until all is delivered, ends the process, and returns what is left.

        Args:
            timeout_s: seconds to wait at most; `None` stands for `finish_timeout_s`.
        """
        if self._process is None:
            return []
        try:
            if self._shipments:
                self._wait(self.finish_timeout_s if timeout_s is None else timeout_s)
        except KeyboardInterrupt:
            pass  # the user waits no longer; nothing is lost by it
        finally:
            self._stop()
        left = [missing for journal in self._shipments for missing in self._backlogs(journal)]
        self._shipments, self._ended, self._n_start = {}, set(), 0
        return left

    def leave(self) -> None:
        """Does not wait: the process delivers what it can in 5 s, and ends."""
        if self._process is None:
            return
        self._say({"finish_timeout_s": INTERRUPTED_TIMEOUT_S, "bye": True})
        os.close(self._pipe)
        self._process = None

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
        assert self._process is not None
        self._process.kill()  # whatever it has delivered is written down; what it has not is in the journal
        self._process.wait()
        os.close(self._pipe)
        self._process = None


@cache
def shared_shipper() -> ShipperProcess:
    """The one shipper of this process; what it has not delivered when the process ends is waited for then."""
    shipper = ShipperProcess()
    atexit.register(_finish_at_exit, shipper, os.getpid())
    return shipper


def tell_backlog(left: Sequence[Backlog]) -> None:
    """Tells people what is not delivered, and how to deliver it."""
    for missing in left:
        print(f"nntrain: {missing}. Deliver it with: {missing.remedy}", file=sys.stderr)


def _finish_at_exit(shipper: ShipperProcess, pid: int) -> None:
    if os.getpid() == pid:
        tell_backlog(shipper.finish())
