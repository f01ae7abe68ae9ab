"""What of Hydra's state a worker in another process needs, as Hydra's own launchers hand it over."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals


def taken() -> dict[str, Any]:
    """The state of this process."""
    return {"singletons": Singleton.get_state(), "argv": list(sys.argv)}


def restored(state: dict[str, Any]) -> None:
    """Takes over the state of another process."""
    setup_globals()
    Singleton.set_state(state["singletons"])
    sys.argv[:] = state["argv"]
