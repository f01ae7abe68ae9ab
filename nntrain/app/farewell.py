"""Last step of a command line run: waits for delivery and prints where the results are."""

from __future__ import annotations

from pathlib import Path

from nntrain.callbacks.signals import ignored_warnings
from nntrain.config.quoting import shell_override
from nntrain.integrations.journal.records import JOURNAL
from nntrain.integrations.shipping.backlog import sync_command
from nntrain.integrations.shipping.client import shared_shipper, tell_backlog
from nntrain.integrations.shipping.destinations import recorded_options
from nntrain.integrations.shipping.state import FOLDER as DELIVERY
from nntrain.integrations.shipping.state import whereabouts
from nntrain.result import FitResult, StopReason


def farewell(folder: Path, result: FitResult) -> None:
    """Waits for delivery to the trackers, then prints where the run is and how to resume it."""
    interrupted = result.reason is StopReason.INTERRUPTED
    with ignored_warnings():
        shipper = shared_shipper()
        tell_backlog(shipper.finish(shipper.interrupt_timeout_s if interrupted else None))
    for where in whereabouts(folder / JOURNAL):
        print(where)
    print(f"files:           {folder}")
    if (folder / JOURNAL).is_file() and not (folder / DELIVERY).is_dir():
        print(f"deliver it:      {sync_command(folder, recorded_options(folder / JOURNAL))}")
    if interrupted and (folder / "last.ckpt").is_file():
        print(f"go on:           python -m nntrain.run {shell_override('resume', str(folder))}")
