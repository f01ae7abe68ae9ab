"""Which modules of a model are watched."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from torch import nn

Modules: TypeAlias = Iterable[str | type[nn.Module]] | Callable[[str, nn.Module], bool]
"""Which modules: dotted names and types, or a function of name and module."""

ROOT = "model"
"""The name of the model itself, which torch leaves empty."""


def checked(modules: Modules | None) -> Modules | None:
    """The same choice, listed once so that it can be read in every fit.

    Raises:
        TypeError: if it is a string, or holds what is neither a name nor a type.
    """
    if modules is None or callable(modules):
        return modules
    if isinstance(modules, str):
        raise TypeError(f"modules={modules!r} is no list: write [{modules}] for this one module.")
    listed = tuple(modules)
    for one in listed:
        if not isinstance(one, str | type):
            raise TypeError(
                f"modules holds {one!r}, neither a name nor a type: write a name in quotes, such as '{one}'."
            )
    return listed


def choose_modules(
    model: nn.Module, modules: Modules | None, default: Callable[[nn.Module], bool]
) -> dict[str, nn.Module]:
    """The chosen modules by dotted name, in the model's order, each once; the model itself is called `model`.

    Args:
        model: where to look.
        modules: names and types, or a function of name and module; `None` takes what `default` accepts.
        default: the choice where `modules` says nothing.

    Raises:
        ValueError: if a name is none of the model's modules, or nothing at all was chosen.
    """
    named = {name or ROOT: module for name, module in model.named_modules()}
    if modules is None:
        chosen = {name: module for name, module in named.items() if default(module)}
    else:
        accepts = modules if callable(modules) else _listed(tuple(modules), named)
        chosen = {name: module for name, module in named.items() if accepts(name, module)}
    if not chosen:
        raise ValueError(
            f"No module was chosen by modules={modules!r}: the model has {', '.join(named)}."
        )
    return chosen


def _listed(
    wanted: tuple[str | type[nn.Module], ...], known: Collection[str]
) -> Callable[[str, nn.Module], bool]:
    types = tuple(one for one in wanted if isinstance(one, type))
    for one in wanted:
        if isinstance(one, str) and one not in known:
            near = difflib.get_close_matches(one, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"The model has no module {one!r}: it has {', '.join(known)}.{hint}")
    return lambda name, module: name in wanted or isinstance(module, types)
