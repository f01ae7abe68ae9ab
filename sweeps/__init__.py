"""Hydra sweeps with Optuna: workers run the suggested trials and stop unpromising trials early.

`current_trial()` returns the Optuna trial of the running job. `PruningCallback` reports a metric to
that trial and stops the fit if the trial is pruned. Neither of them imports Optuna.

The Hydra plugin is `hydra_plugins.nntrain_sweeper`. In an editable install, Hydra does not
discover the plugin: call `register()` first.
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
