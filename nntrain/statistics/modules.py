"""Selects the modules to watch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from torch import nn

from nntrain.config.hints import nearest

Modules: TypeAlias = Iterable[str | type[nn.Module]] | Callable[[str, nn.Module], bool]
"""Modules to select: an iterable of dotted names and types, or a function of name and module."""

ROOT = "model"
"""The name of the model itself, which has an empty name in torch."""


def checked(modules: Modules | None) -> Modules | None:
    """Checks the selection and converts an iterable to a tuple, so that it can be read repeatedly.

    Raises:
        TypeError: if `modules` is a string, or if an entry is neither a name nor a type.
    """
    if modules is None or callable(modules):
        return modules
    if isinstance(modules, str):
        raise TypeError(
            f"modules={modules!r} must be a list: to select this module, write [{modules}]."
        )
    listed = tuple(modules)
    for one in listed:
        if not isinstance(one, str | type):
            raise TypeError(
                f"modules must contain names or types but got {one!r}: quote names, as in '{one}'."
            )
    return listed


def choose_modules(
    model: nn.Module, modules: Modules | None, default: Callable[[nn.Module], bool]
) -> dict[str, nn.Module]:
    """Returns the selected modules by dotted name, without duplicates, in model order.

    Args:
        model: model to select from; the name of the model itself is `model`.
        modules: names and types, or a function of name and module; `None` uses `default`.
        default: function that returns whether to select a module if `modules` is `None`.

    Raises:
        ValueError: if a name does not exist in the model, or if no module is selected.
    """
    named = {name or ROOT: module for name, module in model.named_modules()}
    if modules is None:
        chosen = {name: module for name, module in named.items() if default(module)}
    else:
        accepts = modules if callable(modules) else _listed(tuple(modules), named)
        chosen = {name: module for name, module in named.items() if accepts(name, module)}
    if not chosen:
        raise ValueError(f"modules={modules!r} selects no modules: choose from {', '.join(named)}.")
    return chosen


def _listed(
    wanted: tuple[str | type[nn.Module], ...], known: Collection[str]
) -> Callable[[str, nn.Module], bool]:
    types = tuple(one for one in wanted if isinstance(one, type))
    for one in wanted:
        if isinstance(one, str) and one not in known:
            raise ValueError(f"The model has no module {one!r}: {nearest(one, known)}")
    return lambda name, module: name in wanted or isinstance(module, types)
