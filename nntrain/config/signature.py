"""Checks the arguments of a `_target_` against its signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from nntrain.config.errors import ConfigError
from nntrain.config.hints import nearest

RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


def check_call(func: Callable[..., Any], node: Mapping[str, Any], key: str) -> None:
    """Checks that the arguments in a node match the signature of its target.

    Raises:
        ConfigError: for the first argument that is unknown, missing or has the wrong type.
    """
    try:
        params = inspect.signature(func).parameters
    except ValueError:  # some compiled functions have no signature
        return
    hints = _hints(func)
    given = {name: value for name, value in node.items() if name not in RESERVED}
    named = {
        name
        for name, param in params.items()
        if param.kind not in (param.VAR_POSITIONAL, param.VAR_KEYWORD)
    }
    if not any(param.kind is param.VAR_KEYWORD for param in params.values()):
        for name in given:
            if name not in named:
                raise ConfigError(
                    f"Unknown key {key}.{name} for {node['_target_']}: {nearest(name, named)}"
                )
    for name, value in given.items():
        if name in hints and not fits(value, hints[name]):
            expected = f"{node['_target_']} expects {type_name(hints[name])}"
            raise ConfigError(f"{key}.{name}={value!r} has the wrong type: {expected}.")
    if not node.get("_partial_") and not node.get("_args_"):
        _check_complete(params, given, node, key)


def _check_complete(
    params: Mapping[str, inspect.Parameter],
    given: Collection[str],
    node: Mapping[str, Any],
    key: str,
) -> None:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        name
        for name, param in params.items()
        if param.default is param.empty and param.kind not in variadic
    ]
    missing = [name for name in needed if name not in given]
    if missing:
        name = f"{key}.{missing[0]}"
        raise ConfigError(f"{name} is required by {node['_target_']}: add '+{name}=VALUE'.")


def _hints(func: Callable[..., Any]) -> dict[str, Any]:
    target = inspect.unwrap(func.__init__ if inspect.isclass(func) else func)
    annotations = getattr(target, "__annotations__", {})
    return {
        name: hint for name in annotations if (hint := _hint(annotations[name], target)) is not None
    }


def _hint(annotation: Any, target: Any) -> Any:
    """Evaluates an annotation; returns `None` if its names are not defined at runtime."""
    alone = types.SimpleNamespace(__annotations__={"value": annotation})
    try:
        return typing.get_type_hints(alone, globalns=getattr(target, "__globals__", {}))["value"]
    except (NameError, TypeError):
        return None


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a configuration value matches a type hint; `True` for unsupported hints."""
    if hint in (Any, object) or (isinstance(value, Mapping) and "_target_" in value):
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if inspect.isclass(origin) and issubclass(origin, Collection):
        return _fits_collection(value, origin, args)
    return not _is_plain(value) or not inspect.isclass(hint) or _may_stand_for(value, hint)


def _fits_collection(value: Any, origin: type, args: tuple[Any, ...]) -> bool:
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if not isinstance(value, list | tuple):
        return False
    if origin is tuple and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(
            fits(item, arg) for item, arg in zip(value, args, strict=True)
        )
    return all(fits(item, args[0]) for item in value) if args else True


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list)


def _may_stand_for(value: Any, hint: type) -> bool:
    """Returns whether a class hint accepts a plain value, such as a string for a `Path`."""
    if hint.__name__ in ("Path", "PathLike", "device", "dtype"):
        return isinstance(value, str)
    return (
        isinstance(value, hint)
        if hint in (dict, list, tuple)
        else value is not None and not isinstance(value, str)
    )


def type_name(hint: Any) -> str:
    """Formats a type hint for error messages, for example `int or a list of int`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(arg) for arg in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if hint in (None, type(None)):
        return "null"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a mapping"
    if inspect.isclass(origin) and issubclass(origin, Collection):
        return "a list of " + (type_name(args[0]) if args else "values")
    return getattr(hint, "__name__", str(hint))
