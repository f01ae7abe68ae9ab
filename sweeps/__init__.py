"""Sweeps for Hydra: Optuna chooses the configurations, workers run them, and trials without promise are stopped early.

`current_trial()` is what a job asks for its trial, and `PruningCallback` what reports to it and stops it; neither imports
Optuna. The sweeper that Hydra calls is `hydra_plugins.nntrain_sweeper`.
"""

from nntrain.sweeps.current import current_trial
from nntrain.sweeps.pruning import PruningCallback

__all__ = ["PruningCallback", "current_trial"]
