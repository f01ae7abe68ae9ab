"""The objective of a run: checked before training, and read from the result."""

from __future__ import annotations

from collections.abc import Sequence

from nntrain.app.preflight import TIMES
from nntrain.config.errors import ConfigError
from nntrain.result import FitResult


def objectives(objective: str | Sequence[str] | None) -> list[str]:
    """Returns the names of the metrics to optimise: one, several, or none."""
    if objective is None:
        return []
    return [objective] if isinstance(objective, str) else list(objective)


def check_objective(objective: str | Sequence[str] | None, recorded: list[str]) -> None:
    """Checks before training that each objective will be recorded.

    Raises:
        ConfigError: if one will not; the message lists the metrics that will.
    """
    for name in objectives(objective):
        if name not in (*recorded, *TIMES):
            known = ", ".join([*recorded, *TIMES])
            raise ConfigError(
                f"objective={name} is not going to be recorded: set it to one of {known}, or to "
                "null."
            )


def objective_value(
    objective: str | Sequence[str] | None, result: FitResult
) -> float | list[float] | None:
    """Returns the value of the objective, or of each; `None` if one of them was not recorded."""
    values = [result.metrics.get(name) for name in objectives(objective)]
    found = [value for value in values if value is not None]
    if not found or len(found) < len(values):
        return None
    return found[0] if isinstance(objective, str) else found
