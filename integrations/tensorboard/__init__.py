"""Settings of the TensorBoard tracker. This module does not import tensorboard."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from nntrain.integrations.tracker import Tracker, TrackerClient


@dataclass(frozen=True)
class TensorBoardTracker(Tracker):
    """Writes event files, one folder per run; view them with `tensorboard --logdir runs`.

    Args:
        log_dir: the folder of all runs; `None` means `runs` in the current folder.
        system_metrics: whether to record CPU, memory and GPU usage.

    Raises:
        ImportError: if tensorboard is not installed; the message contains the command to install
            it.
    """

    log_dir: str | None = None
    system_metrics: bool = True

    def __post_init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "The TensorBoard tracker needs tensorboard: pip install 'nntrain[tensorboard]'."
            )

    def resolved(self) -> Self:
        """Returns the settings with an absolute `log_dir`."""
        return replace(self, log_dir=str(Path(self.log_dir or "runs").absolute()))

    def destination(self) -> Mapping[str, object]:
        """Returns the folder of all runs."""
        return {"log_dir": Path(self.log_dir or "runs").absolute()}

    def connect(self) -> TrackerClient:
        """Imports tensorboard and returns a client that writes below `log_dir`."""
        from nntrain.integrations.tensorboard.client import TensorBoardClient

        return TensorBoardClient(Path(self.log_dir or "runs").absolute())
