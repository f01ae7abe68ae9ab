"""Functions for the objective of a run: the metrics that a sweep optimizes."""

from __future__ import annotations

from collections.abc import Sequence

from nntrain.app.preflight import TIMES
from nntrain.config.errors import ConfigError
from nntrain.result import FitResult


def objectives(objective: str | Sequence[str] | None) -> list[str]:
    """Returns the objective as a list of metric names; empty if there is no objective."""
    if objective is None:
        return []
    return [objective] if isinstance(objective, str) else list(objective)


def check_objective(objective: str | Sequence[str] | None, recorded: list[str]) -> None:
    """Checks before training that all metrics in the objective will be recorded.

    Raises:
        ConfigError: if a metric will not be recorded; the message lists the recorded metrics.
    """
    for name in objectives(objective):
        if name not in (*recorded, *TIMES):
            known = ", ".join([*recorded, *TIMES])
            raise ConfigError(
                f"objective={name} will not be recorded: set objective to one of {known}, or to "
                "null."
            )


def objective_value(
    objective: str | Sequence[str] | None, result: FitResult
) -> float | list[float] | None:
    """Returns the value (or values) of the objective; `None` if a metric was not recorded."""
    values = [result.metrics.get(name) for name in objectives(objective)]
    found = [value for value in values if value is not None]
    if not found or len(found) < len(values):
        return None
    return found[0] if isinstance(objective, str) else found
