"""The sweeper plugin that Hydra loads; its implementation is in `nntrain.sweeps`."""

from hydra_plugins.nntrain_sweeper.config import SweeperConfig
from hydra_plugins.nntrain_sweeper.sweeper import NntrainSweeper

__all__ = ["NntrainSweeper", "SweeperConfig"]
