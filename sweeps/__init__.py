"""Sweeps for Hydra: Optuna chooses the configurations, workers run them, and trials without promise are stopped early.

`current_trial()` is what a job asks for its trial, and `PruningCallback` what reports to it and stops it; neither imports
Optuna. The sweeper that Hydra calls is `hydra_plugins.nntrain_sweeper`, and `register()` makes it known where Hydra does
not see it.
"""

from nntrain.sweeps.callbacks import StudyCallback, SweepEnd
from nntrain.sweeps.context import current_trial
from nntrain.sweeps.pruning import PruningCallback
from nntrain.sweeps.registration import register

__all__ = ["PruningCallback", "StudyCallback", "SweepEnd", "current_trial", "register"]
