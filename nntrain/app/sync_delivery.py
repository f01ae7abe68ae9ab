"""Delivers one journal to one tracker for `python -m nntrain.sync`, and prints the result."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from nntrain.app.sync_destinations import Destination, Sync, connection, prepared
from nntrain.config.errors import ConfigError
from nntrain.integrations.journal.closing import close_journal
from nntrain.integrations.journal.records import RunRecord
from nntrain.integrations.journal.writer import is_being_written
from nntrain.integrations.shipping.backlog import Backlog, backlog
from nntrain.integrations.shipping.delivery import NOTES, Delivery, damage_note
from nntrain.integrations.shipping.progress import DeliveryBar
from nntrain.integrations.shipping.shipper import wait_s
from nntrain.integrations.shipping.state import (
    error_text,
    is_delivered,
    read_state,
    send_again,
    set_aside,
    state_path,
)
from nntrain.integrations.tracker import Lost, Refused

_GRANT = re.compile(r"add 'trusted_targets=\[([\w.]+)\]' to the command")


def tell(text: str, *, error: bool = False) -> None:
    """Prints a line that may come from a journal: control characters are escaped."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(shown, file=sys.stderr if error else sys.stdout)


def deliver(journal: Path, record: RunRecord, destination: Destination, this: Sync) -> bool:
    """Delivers a journal to one tracker; returns whether everything is delivered.

    Raises:
        ConfigError: if the tracker is not trusted, or names a place that is not the user's own.
        ValueError: if the name of the tracker cannot be the name of a file.
    """
    state_path(journal, destination.name)  # raises if the name leads elsewhere
    if _is_done_elsewhere(journal, destination, this):
        return True
    delivery = prepared(journal, destination, this)
    with connection(delivery, destination, this):
        return _sent(delivery, record, destination, this)


def _is_done_elsewhere(journal: Path, destination: Destination, this: Sync) -> bool:
    """Returns whether a run is delivered to a place that cannot be asked, as it is not ours."""
    if this.args.again or not is_delivered(journal, read_state(journal, destination.name)):
        return False
    try:
        prepared(journal, destination, this)
    except ConfigError:
        return True
    return False


def _sent(delivery: Delivery, record: RunRecord, destination: Destination, this: Sync) -> bool:
    lost = _lost(delivery, record, destination, this)
    if lost is not None and not _is_sent_again(lost, destination, this):
        tell(_told_lost(delivery, destination, lost, this), error=True)
        return False
    running = is_being_written(delivery.journal)
    if not running:
        close_journal(delivery.journal)
    if lost is not None or this.args.again:
        delivery = _anew(delivery, is_lost=lost is not None)
    if delivery.is_current():
        return True
    _tell_twin(delivery.journal, record, this)
    with DeliveryBar([(delivery.journal, destination.name)]) as bar:
        _advance(delivery, bar, this.args.timeout_s)
    is_complete = _tell_result(delivery, destination, record, running)
    if is_complete:
        this.counts[destination.label].update(delivery.state.unsupported)
    return is_complete


def _tell_twin(journal: Path, record: RunRecord, this: Sync) -> None:
    """Tells the user that another journal records the same run, for example a copy of it."""
    first = this.journals[record.run.uid]
    if record.run.uid and first.resolve() != journal.resolve():
        tell(f"{journal} records the same run as {first}: a tracker has one run for both.")


def _lost(
    delivery: Delivery, record: RunRecord, destination: Destination, this: Sync
) -> Lost | None:
    """Asks the tracker whether it still has the run; a tracker that fails is asked only once."""
    state, key = delivery.state, str(delivery.tracker)
    if state.run_id is None or key in this.silent:
        return None
    has_all = delivery.is_current() and not state.n_refused and not state.held
    try:
        return delivery.client.lost(record.run, state.run_id, _last(record) if has_all else {})
    except Exception as err:  # noqa: BLE001 - a tracker's library may raise anything
        this.silent.add(key)
        if delivery.is_current():
            tell(
                f"{destination.label} does not answer whether it still has {delivery.journal} "
                f"({error_text(err)}).",
                error=True,
            )
        return None


def _last(record: RunRecord) -> dict[str, float]:
    """Returns the last value of each metric: at the last step, the latest and then the largest."""
    found = {}
    for key, series in record.metrics.items():
        if not len(series.step):
            continue
        order = np.lexsort((series.value, series.time_ms, series.step))
        found[key] = float(series.value[order[-1]])
    return found


def _is_sent_again(lost: Lost, destination: Destination, this: Sync) -> bool:
    return bool(this.args.again) or (destination.is_asked and not lost.is_trashed)


def _told_lost(delivery: Delivery, destination: Destination, lost: Lost, this: Sync) -> str:
    return (
        f"{destination.label} no longer has the run of {delivery.journal} ({lost.why}): to send it "
        f"again, run {this.command(delivery.journal, '--again')}"
    )


def _anew(delivery: Delivery, *, is_lost: bool) -> Delivery:
    """Returns a delivery that sends the whole run again, as a new run if the tracker lost it."""
    if is_lost:
        set_aside(delivery.journal, delivery.name)
    else:
        send_again(delivery.journal, delivery.name)
    again = Delivery(
        delivery.journal,
        delivery.name,
        delivery.tracker,
        delivery.trust,
        confined=delivery.confined,
    )
    if is_lost:
        again.client.send_anew()
    return again


def _advance(delivery: Delivery, bar: DeliveryBar, timeout_s: float) -> None:
    """Delivers until all records are sent, or the tracker has failed for `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if not delivery.advance():
                return
            deadline = time.monotonic() + timeout_s
        except Exception as err:  # noqa: BLE001 - retry after any exception from a tracker library
            delivery.failed(err)
            is_final = isinstance(err, Refused | LookupError)  # the run itself was refused
            if is_final or time.monotonic() > deadline:
                return
            time.sleep(wait_s(delivery.state.n_tries))
        bar.draw()


def _tell_result(
    delivery: Delivery, destination: Destination, record: RunRecord, running: bool
) -> bool:
    """Prints the result of a delivery; returns whether the delivery is complete."""
    left = backlog_of(delivery.journal, destination)
    where = f"{delivery.journal}: {destination.label}"
    told = {damage_note(number, record.damaged[number]) for number in record.wrong}
    for note in delivery.state.notes:
        if note not in told:
            tell(f"{where}: {_GRANT.sub(_grant, note)}", error=True)
    if delivery.state.n_refused > NOTES:
        n = delivery.state.n_refused
        tell(f"{where}: the tracker rejected {n} records in total", error=True)
    if left is None or (running and left.error is None):
        tell(f"{delivery.journal}: delivered.")
        for line in delivery.state.where.split("\n"):
            tell(line)
        return True
    if left.error is None and delivery.state.error is not None:  # the state could not be saved
        left = replace(left, error=delivery.state.error)
    remedy = "fix the cause and run this command again, or use another tracker with --to and --set"
    tell(f"{left}: {remedy}.", error=True)
    return False


def _grant(found: re.Match[str]) -> str:
    return f"add '--again --trust {found[1]}' to this command"


def backlog_of(journal: Path, destination: Destination) -> Backlog | None:
    """Returns what a tracker has not received, with the name of the tracker for messages."""
    left = backlog(journal, destination.name)
    return None if left is None else replace(left, name=destination.label)
