"""Base class for metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from nntrain.core.names import check_metric_name

if TYPE_CHECKING:
    from nntrain.learner import Learner

Part: TypeAlias = Literal["train", "valid", "both"]
"""Where to record a metric: in training, in validation, or in both."""


class Metric(ABC):
    """Base class for metrics.

    The recorder calls `reset` before training or validation, `accumulate` after each batch, and
    reads `value` after the epoch. `accumulate` must not synchronize with the device, so it must not
    call `item()` or `float()`.

    Args:
        name: name of the metric, without the prefix `train/` or `valid/`.
        part: where to record the metric: `train`, `valid` or `both`.

    Raises:
        ValueError: if trackers do not accept `name`, or if `part` is unknown.
    """

    def __init__(self, name: str, part: Part = "both") -> None:
        self.name = name
        if part not in get_args(Part):
            raise ValueError(
                f"part={part!r} of metric {name!r} must be 'train', 'valid' or 'both'."
            )
        self.part: Part = part

    @property
    def name(self) -> str:
        """Name of the metric, without the prefix `train/` or `valid/`."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        check_name(name)
        self._name = name

    def active(self, training: bool) -> bool:
        """Returns whether to record the metric in training, or in validation if not `training`."""
        return self.part == "both" or (self.part == "train") == training

    @abstractmethod
    def reset(self) -> None:
        """Resets the metric."""

    @abstractmethod
    def accumulate(self, learn: Learner) -> None:
        """Updates the metric with the current batch of `learn`."""

    @property
    @abstractmethod
    def value(self) -> Any:
        """Value so far, a number or a scalar tensor; `None` before the first batch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state to save in a checkpoint in the middle of an epoch."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""


def check_name(name: str) -> None:
    """Checks that trackers accept the metric name `name`.

    Raises:
        ValueError: if trackers do not accept the name; the message suggests a valid name.
    """
    check_metric_name(name, "valid/")
