"""What a metric is: its name, its part of the epoch, and when it is reset, fed and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from nntrain.core.names import check_metric_name

if TYPE_CHECKING:
    from nntrain.learner import Learner

Part: TypeAlias = Literal["train", "valid", "both"]
"""The part of an epoch on which a metric is recorded."""


class Metric(ABC):
    """Something recorded once per part of an epoch: reset, given each batch, then read.

    `accumulate` must not read the device (no `item()`, no `float()`); the recorder reads `value` after the epoch.

    Args:
        name: what it is recorded as, after `train/` or `valid/`.
        part: the part of the epoch on which it is recorded: `train`, `valid` or `both`.

    Raises:
        ValueError: if trackers would refuse the name, or `part` is none of the three.
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
        """What it is recorded as, after `train/` or `valid/`."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        check_name(name)
        self._name = name

    def active(self, training: bool) -> bool:
        """Whether the metric is recorded in this part of the epoch."""
        return self.part == "both" or (self.part == "train") == training

    @abstractmethod
    def reset(self) -> None:
        """Forgets all batches."""

    @abstractmethod
    def accumulate(self, learn: Learner) -> None:
        """Takes the batch that `learn` holds."""

    @property
    @abstractmethod
    def value(self) -> Any:
        """The value over the batches taken: a number or scalar tensor; `None` if there were none."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint within an epoch keeps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


def check_name(name: str) -> None:
    """Checks that trackers take `name` after `train/` or `valid/`.

    Raises:
        ValueError: if they would not; the message suggests one that they take.
    """
    check_metric_name(name, "valid/")
