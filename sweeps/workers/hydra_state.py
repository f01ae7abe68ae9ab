"""Copies Hydra's global state to worker processes, as Hydra's own launchers do."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals


def hydra_state() -> dict[str, Any]:
    """Returns Hydra's global state in this process."""
    return {"singletons": Singleton.get_state(), "argv": list(sys.argv)}


def restore_hydra_state(state: dict[str, Any]) -> None:
    """Sets Hydra's global state in this process, given the state of another process."""
    setup_globals()
    Singleton.set_state(state["singletons"])
    sys.argv[:] = state["argv"]
