"""The one place that makes objects from data: every `_target_` is checked against the allow-list before it is called."""

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
"""What a target raises that does not accept its arguments."""


def instantiate(node: Any, key: str, trusted: Sequence[str] = ()) -> Any:
    """Calls the target of a node with its arguments; the nodes among them are made first.

    It works as `hydra.utils.instantiate`, but `_partial_` makes a plain `functools.partial`: Hydra's own checks a policy at
    every call, which costs a metric 0.1 ms a batch and more.

    Args:
        node: plain values with a `_target_`.
        key: the configuration key of the node, for messages.
        trusted: packages that targets may come from, in addition to `TRUSTED_TARGETS`.

    Raises:
        ConfigError: if a target is not trusted or does not exist, or does not accept its arguments.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{key} has no _target_: choose one of its configs, or give the dotted path of your own."
        )
    check_nodes(node, key, trusted)
    packages = (*TRUSTED_TARGETS, *trusted)
    try:
        return _made(node, key, packages)
    except _REFUSALS as err:
        raise err if isinstance(err, ConfigError) else ConfigError(f"{key}: {err}") from err


def check_nodes(values: Any, key: str = "", trusted: Sequence[str] = ()) -> None:
    """Checks every node of a configuration: its target's package and name, and its arguments. Calls nothing.

    Raises:
        ConfigError: for the first node that cannot be made.
    """
    check_trusted_targets(trusted)
    nodes, packages = list(_nodes(values, key)), (*TRUSTED_TARGETS, *trusted)
    for path, node in nodes:  # all of them before anything is imported
        check_path(node["_target_"], packages, path)
    for path, node in nodes:
        check_call(resolve_target(node["_target_"], packages, path), node, path)


def _nodes(values: Any, key: str) -> Iterator[tuple[str, Node]]:
    """Yields every node with its key, however deep."""
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
