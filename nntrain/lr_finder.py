"""Finding a learning rate by mock training that leaves no trace."""

from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nntrain.learner import Learner


@dataclass(frozen=True)
class LRFindResult:
    """placeholder"""


def lr_find(learn: Learner, **kwargs: Any) -> LRFindResult:
    """placeholder"""
    return LRFindResult()
