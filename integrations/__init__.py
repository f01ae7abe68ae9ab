"""Experiment tracking: training writes a journal, and a shipper process delivers it to trackers.

Names are imported on first use, so the shipper imports only the trackers that it delivers to.
"""

from typing import TYPE_CHECKING

from nntrain.lazy import lazy_names

if TYPE_CHECKING:
    from nntrain.integrations.callback import TrackerCallback as TrackerCallback
    from nntrain.integrations.journal.records import read_journal as read_journal
    from nntrain.integrations.memory import MemoryTracker as MemoryTracker
    from nntrain.integrations.mlflow import MLflowTracker as MLflowTracker
    from nntrain.integrations.run import Run as Run
    from nntrain.integrations.tensorboard import TensorBoardTracker as TensorBoardTracker
    from nntrain.integrations.tracker import RunInfo as RunInfo
    from nntrain.integrations.tracker import Tracker as Tracker
    from nntrain.integrations.tracker import TrackerClient as TrackerClient
    from nntrain.integrations.wandb import WandbTracker as WandbTracker
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "nntrain.integrations.callback": "TrackerCallback",
            "nntrain.integrations.journal.records": "read_journal",
            "nntrain.integrations.memory": "MemoryTracker",
            "nntrain.integrations.mlflow": "MLflowTracker",
            "nntrain.integrations.tensorboard": "TensorBoardTracker",
            "nntrain.integrations.run": "Run",
            "nntrain.integrations.tracker": "RunInfo Tracker TrackerClient",
            "nntrain.integrations.wandb": "WandbTracker",
        },
    )
