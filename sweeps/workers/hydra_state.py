"""Hydra's global state, which a worker in another process needs, as with Hydra's own launchers."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals


def hydra_state() -> dict[str, Any]:
    """Returns the state of this process."""
    return {"singletons": Singleton.get_state(), "argv": list(sys.argv)}


def restore_hydra_state(state: dict[str, Any]) -> None:
    """Sets the state of another process in this one."""
    setup_globals()
    Singleton.set_state(state["singletons"])
    sys.argv[:] = state["argv"]
