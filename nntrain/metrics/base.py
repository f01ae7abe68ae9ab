"""The base class of metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from nntrain.core.names import check_metric_name

if TYPE_CHECKING:
    from nntrain.learner import Learner

Part: TypeAlias = Literal["train", "valid", "both"]
"""The part of an epoch in which a metric is recorded."""


class Metric(ABC):
    """Base class of metrics: reset before a part of an epoch, updated per batch, then read.

    `accumulate` must not read the device (no `item()`, no `float()`); the recorder reads `value`
    after the epoch.

    Args:
        name: name under which the metric is recorded, after `train/` or `valid/`.
        part: part of the epoch in which the metric is recorded: `train`, `valid` or `both`.

    Raises:
        ValueError: if trackers would reject `name`, or `part` is unknown.
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
        """The name under which the metric is recorded, after `train/` or `valid/`."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        check_name(name)
        self._name = name

    def active(self, training: bool) -> bool:
        """Returns whether the metric is recorded in training or, if not `training`, validation."""
        return self.part == "both" or (self.part == "train") == training

    @abstractmethod
    def reset(self) -> None:
        """Forgets all batches."""

    @abstractmethod
    def accumulate(self, learn: Learner) -> None:
        """Updates the metric with the current batch of `learn`."""

    @property
    @abstractmethod
    def value(self) -> Any:
        """The value over the batches so far, a number or scalar tensor; `None` without batches."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint within an epoch."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""


def check_name(name: str) -> None:
    """Checks that trackers accept `name` after `train/` or `valid/`.

    Raises:
        ValueError: if they do not; the message suggests a name that they accept.
    """
    check_metric_name(name, "valid/")
