"""The only place that makes objects from data: it checks every `_target_` before the call."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nntrain.config.errors import ConfigError
from nntrain.config.signature import RESERVED, check_call
from nntrain.config.targets import (
    TRUSTED_TARGETS,
    check_path,
    check_trusted_targets,
    resolve_target,
)

Node = Mapping[str, Any]
"""A `_target_` and its arguments, as plain values."""

_REFUSALS = (ValueError, TypeError, LookupError, ImportError, OSError)
"""The exceptions of targets that refuse their arguments."""


def instantiate(node: Any, key: str, trusted: Sequence[str] = ()) -> Any:
    """Makes the object that a node describes: calls its target, after making the nodes within it.

    It works as `hydra.utils.instantiate`, except that `_partial_` makes a plain
    `functools.partial`: Hydra's own checks a policy at every call, 0.1 ms per batch for a metric.

    Args:
        node: plain values with a `_target_`.
        key: the configuration key of the node, for messages.
        trusted: packages that targets may come from, in addition to `TRUSTED_TARGETS`.

    Raises:
        ConfigError: if a target is not trusted or does not exist, or does not accept its arguments.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{key} has no _target_: choose one of its configs, or set the dotted path of your own."
        )
    check_nodes(node, key, trusted)
    packages = (*TRUSTED_TARGETS, *trusted)
    try:
        return _made(node, key, packages)
    except _REFUSALS as err:
        raise err if isinstance(err, ConfigError) else ConfigError(f"{key}: {err}") from err


def target_of(node: Node, key: str, trusted: Sequence[str] = ()) -> Any:
    """Returns the function or class that `instantiate` would call.

    Raises:
        ConfigError: if the target is not trusted or does not exist.
    """
    packages = (*TRUSTED_TARGETS, *trusted)
    check_path(node["_target_"], packages, key)
    return resolve_target(node["_target_"], packages, key)


def check_nodes(values: Any, key: str = "", trusted: Sequence[str] = ()) -> None:
    """Checks the target and the arguments of every node in a configuration, without calling any.

    Raises:
        ConfigError: for the first invalid node.
    """
    check_trusted_targets(trusted)
    nodes, packages = list(_nodes(values, key)), (*TRUSTED_TARGETS, *trusted)
    for path, node in nodes:  # all paths before any import
        check_path(node["_target_"], packages, path)
    for path, node in nodes:
        check_call(resolve_target(node["_target_"], packages, path), node, path)


def _nodes(values: Any, key: str) -> Iterator[tuple[str, Node]]:
    """Yields every node with its key, at any depth."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield key, values
        for name, value in values.items():
            yield from _nodes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for i, value in enumerate(values):
            yield from _nodes(value, f"{key}[{i}]")


def _made(node: Any, key: str, packages: Sequence[str]) -> Any:
    if isinstance(node, list):
        return [_made(item, f"{key}[{i}]", packages) for i, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    given = (
        node
        if node.get("_recursive_") is False
        else {name: _made(value, f"{key}.{name}", packages) for name, value in node.items()}
    )
    if "_target_" not in node:
        return given
    target, args = resolve_target(node["_target_"], packages, key), given.get("_args_") or ()
    kwargs = {name: value for name, value in given.items() if name not in RESERVED}
    return (
        functools.partial(target, *args, **kwargs)
        if node.get("_partial_")
        else target(*args, **kwargs)
    )
