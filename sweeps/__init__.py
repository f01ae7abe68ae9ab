"""Sweeps for Hydra: Optuna suggests configurations, workers run them, bad trials stop early.

`current_trial()` returns the trial of a running job; `PruningCallback` reports to it and stops it.
Neither imports Optuna. The sweeper is `hydra_plugins.nntrain_sweeper`; `register()` adds it to
Hydra in an editable install, where Hydra does not find it.
"""

from typing import TYPE_CHECKING

from nntrain.lazy import lazy_names

if TYPE_CHECKING:
    from hydra_plugins.nntrain_sweeper.registration import register as register

    from nntrain.sweeps.callbacks import StudyCallback as StudyCallback
    from nntrain.sweeps.callbacks import SweepEnd as SweepEnd
    from nntrain.sweeps.context import current_trial as current_trial
    from nntrain.sweeps.pruning import PruningCallback as PruningCallback
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "hydra_plugins.nntrain_sweeper.registration": "register",
            "nntrain.sweeps.callbacks": "StudyCallback SweepEnd",
            "nntrain.sweeps.context": "current_trial",
            "nntrain.sweeps.pruning": "PruningCallback",
        },
    )
