"""Finds the secrets of a configuration, with its interpolations resolved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from nntrain.config.redact import Redactor, learn


def learn_config(config: DictConfig, *others: Any) -> None:
    """Adds the secrets of a configuration to those that this process knows.

    Args:
        config: the configuration. Values that cannot be resolved yet are skipped.
        others: mappings or lists that may contain further secrets.
    """
    learn(Redactor(config={"config": _plain(config), "others": others}, environ=os.environ))


def _plain(node: Any) -> Any:
    if isinstance(node, DictConfig):
        return {str(name): _plain(_value(node, name)) for name in _names(node)}
    if isinstance(node, ListConfig):
        return [_plain(_value(node, i)) for i in _names(node)]
    return node


def _names(node: DictConfig | ListConfig) -> Sequence[Any]:
    if node._is_missing() or node._is_none() or node._is_interpolation():
        return []
    return list(node.keys()) if isinstance(node, DictConfig) else range(len(node))


def _value(node: DictConfig | ListConfig, name: Any) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException:  # it is missing, or depends on the run
        return None
