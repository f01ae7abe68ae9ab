"""Removes secrets from what a study stores."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage

from nntrain.config.redact import redact, redact_override
from nntrain.sweeps.errors import SweepError


class SafeAttributes(BaseStorage):
    """The base class of all storages of a sweep: no attribute or parameter contains a secret.

    It comes first among the base classes of a storage.
    """

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Stores an attribute of a study, without secrets."""
        super().set_study_user_attr(study_id, key, redact(value, key))  # type: ignore[safe-super]

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Stores an attribute of a trial, without secrets."""
        super().set_trial_user_attr(trial_id, key, redact(value, key))  # type: ignore[safe-super]

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Stores a parameter.

        Raises:
            SweepError: if its choices contain secrets, because Optuna would store all of them.
        """
        check_choices(trial_id, param_name, param_value_internal, distribution)
        super().set_trial_param(  # type: ignore[safe-super]
            trial_id, param_name, param_value_internal, distribution
        )


def check_choices(
    trial_id: int,
    name: str,
    internal: float,
    distribution: BaseDistribution,
    previous: BaseDistribution | None = None,
) -> None:
    """Checks the arguments with which Optuna stores a parameter.

    Raises:
        SweepError: if its choices contain secrets, because Optuna would store all of them.
    """
    if not isinstance(distribution, CategoricalDistribution):
        return
    for choice in distribution.choices:
        if isinstance(choice, str) and redact_override(f"{name}={choice}") != f"{name}={choice}":
            raise SweepError(
                f"The choices of {name} contain secrets, which the study would store: suggest a "
                "number or a name for each secret instead."
            )
