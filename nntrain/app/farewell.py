"""Last step of a command line run: waits for delivery and prints where the results are."""

from __future__ import annotations

from pathlib import Path

from nntrain.integrations.journal.records import JOURNAL
from nntrain.integrations.shipping.client import INTERRUPTED_TIMEOUT_S, shared_shipper, tell_backlog
from nntrain.integrations.shipping.state import FOLDER as DELIVERY
from nntrain.integrations.shipping.state import whereabouts
from nntrain.result import FitResult, StopReason


def farewell(folder: Path, result: FitResult) -> None:
    """Waits for delivery to the trackers, then prints where the run is and how to resume it."""
    interrupted = result.reason is StopReason.INTERRUPTED
    tell_backlog(shared_shipper().finish(INTERRUPTED_TIMEOUT_S if interrupted else None))
    for where in whereabouts(folder / JOURNAL):
        print(where)
    print(f"files:           {folder}")
    if (folder / JOURNAL).is_file() and not (folder / DELIVERY).is_dir():
        print(f"deliver it:      python -m nntrain.sync {folder}")
    if interrupted and (folder / "last.ckpt").is_file():
        print(f"resume it:       python -m nntrain.run resume={folder}")
