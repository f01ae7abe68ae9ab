"""Prints statistics about the code, and checks the direction of imports.

Terms, for each package:

- A room is a module or sub-package directly inside the package.
- An arrow is a dependency: one room imports another, in one or more places.
- The number of floors is the length of the longest chain of arrows, in rooms. Rooms that form an
  import cycle are on the same floor.

Imports inside functions are included; imports under `if TYPE_CHECKING:` are not. An import of a
name from a package is resolved to the module that defines the name, so an `__init__` is not a room.
The `package-dir` mapping in pyproject.toml determines the folders of the packages. The Hydra plugin
is a room of `nntrain.sweeps`.

`--check` fails if an import cycle includes a package, or if an import violates FLOORS.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG_FILE = 400
PLUGIN = ("hydra_plugins.nntrain_sweeper", "nntrain.sweeps.plugin")

# The floors of nntrain, from the lowest to the highest, with their rooms. A room can import rooms
# on lower floors. It can also import rooms on the same floor, unless a bar separates the two rooms.
# "*" stands for all rooms that are not listed.
FLOORS = (
    "conf | config | lazy | result",
    "core",
    "data metrics models statistics",
    "*",
    "callbacks",
    "learner",
    "integrations | sweeps",
    "testing",
    "app",
    "run | sync",
)

Graph = Mapping[str, set[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


@dataclass(frozen=True)
class Module:
    """A source file and its import name."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def n_lines(self) -> int:
        """The number of lines."""
        return len(self.text.splitlines())

    @property
    def is_package(self) -> bool:
        """Whether the module is the `__init__` of a package."""
        return self.path.name == "__init__.py"


Modules = Mapping[str, Module]

# ---- modules


def read_modules(root: Path) -> dict[str, Module]:
    """Returns the modules of all packages listed in pyproject.toml, keyed by name."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    modules = [
        read_module(path, package)
        for package in settings["packages"]
        for path in sorted((root / folder_of(package, settings["package-dir"])).glob("*.py"))
    ]
    return {module.name: module for module in modules}


def folder_of(package: str, package_dir: Mapping[str, str]) -> Path:
    """Returns the folder of a package, relative to the root, as setuptools resolves it."""
    if package in package_dir:
        return Path(package_dir[package])
    parent, _, last = package.rpartition(".")
    return folder_of(parent, package_dir) / last if parent else Path(last)


def read_module(path: Path, package: str) -> Module:
    """Parses a source file."""
    text = path.read_text()
    name = package if path.stem == "__init__" else f"{package}.{path.stem}"
    return Module(name.replace(*PLUGIN), path, text, ast.parse(text))


# ---- imports


def import_graph(modules: Modules) -> dict[str, set[str]]:
    """Maps each module to the set of modules that it imports."""
    return {
        name: {found for target in imports(module) if (found := resolve(target, modules))} - {name}
        for name, module in modules.items()
    }


def imports(module: Module) -> Iterator[str]:
    """Yields the dotted names that a module imports at runtime."""
    for node in runtime_nodes(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.replace(*PLUGIN) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from imported_names(node, module).values()


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields a node and its descendants, except the bodies of `if TYPE_CHECKING:` blocks."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        children = node.orelse
    for child in children:
        yield from runtime_nodes(child)


def imported_names(node: ast.ImportFrom, module: Module) -> dict[str, str]:
    """Maps each name in a `from ... import` statement to its full dotted name."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    source = resolve_name("." * node.level + (node.module or ""), package).replace(*PLUGIN)
    return {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}


def resolve(target: str, modules: Modules) -> str | None:
    """Returns the module that defines a dotted name, or None if it is a third-party name."""
    if target in modules or not target:
        return target or None
    parent, _, name = target.rpartition(".")
    exported = exports(modules[parent]) if parent in modules else {}
    return resolve(exported.get(name, parent), modules)


def exports(module: Module) -> dict[str, str]:
    """Maps the names that an `__init__` imports from other modules to their full dotted names.

    The imports under `if TYPE_CHECKING:` are included, because a lazy `__init__` lists its names
    there.
    """
    names: dict[str, str] = {}
    for node in ast.walk(module.tree) if module.is_package else ():
        if isinstance(node, ast.ImportFrom):
            names |= imported_names(node, module)
    return names


# ---- rooms


def rooms_of(package: str, imports_of: Graph) -> dict[str, set[str]]:
    """Maps each room of a package to the set of rooms that it imports."""
    arrows: dict[str, set[str]] = {}
    for module, targets in imports_of.items():
        if room := room_of(module, package):
            others = {room_of(target, package) for target in targets}
            arrows.setdefault(room, set()).update(others - {room, ""})
    return arrows


def room_of(module: str, package: str) -> str:
    """Returns the room that contains a module; empty if the module is not in the package."""
    below = module.removeprefix(f"{package}.")
    return "" if below == module else below.split(".")[0]


def reachable(start: str, arrows: Graph) -> set[str]:
    """Returns all rooms reachable from `start`; includes `start` only if `start` is in a cycle."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def count_floors(arrows: Graph) -> int:
    """Returns the number of rooms in the longest chain of arrows; a cycle counts as one room."""
    below = {room: reachable(room, arrows) for room in arrows}

    @cache
    def height(room: str) -> int:
        lower = [other for other in below[room] if room not in below[other]]
        return 1 + max(map(height, lower), default=0)

    return max(map(height, arrows), default=0)


def circles(arrows: Graph) -> list[set[str]]:
    """Returns the groups of rooms that form an import cycle."""
    below = {room: reachable(room, arrows) for room in arrows}
    groups = {
        frozenset(other for other in below[room] if room in below[other])
        for room in sorted(arrows)
        if room in below[room]
    }
    return [set(group) for group in sorted(groups, key=sorted)]


# ---- rules


def package_circles(modules: Modules, imports_of: Graph) -> list[str]:
    """Returns an error message for each import cycle that includes a package."""
    names = packages(modules)
    rooms = {package: rooms_of(package, imports_of) for package in names}
    return [
        f"import cycle in {package}: {arrows_within(circle, arrows)}"
        for package, arrows in rooms.items()
        for circle in circles(arrows)
        if any(f"{package}.{room}" in names for room in circle)
    ]


def arrows_within(rooms: set[str], arrows: Graph) -> str:
    """Formats the arrows between the given rooms."""
    return ", ".join(
        f"{room} -> {other}" for room in sorted(rooms) for other in sorted(arrows[room] & rooms)
    )


def breaches(imports_of: Graph) -> list[str]:
    """Returns an error message for each import that violates FLOORS."""
    return [
        f"{module} must not import {target}: see FLOORS in .ci/shape.py"
        for module, targets in imports_of.items()
        for target in sorted(targets)
        if not may_import(module, target)
    ]


def may_import(module: str, target: str) -> bool:
    """Returns whether FLOORS allows a module to import another module."""
    here, there = place(module), place(target)
    return there == here or there[0] < here[0]


def place(module: str) -> tuple[int, str]:
    """Returns the floor of a module, and the section (between bars) of that floor."""
    places = {
        room: (height, part)
        for height, floor in enumerate(FLOORS)
        for part in floor.split("|")
        for room in part.split()
    }
    return places.get(room_of(module, "nntrain"), places["*"])


# ---- statistics


def packages(modules: Modules) -> list[str]:
    """Returns the names of all packages."""
    return [name for name, module in modules.items() if module.is_package]


def functions(module: Module) -> list[Function]:
    """Returns all functions in a module, including methods and nested functions."""
    return [node for node in ast.walk(module.tree) if isinstance(node, Function)]


def length(function: Function) -> int:
    """Returns the number of lines from `def` to the end of the function."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def code_length(function: Function) -> int:
    """Returns the number of lines without the docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    return length(function) - has_docstring * ((first.end_lineno or 0) - first.lineno + 1)


def annotated(function: Function) -> list[bool]:
    """Returns whether each parameter, and the return value, has a type annotation."""
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    parameters = [arg for arg in every if arg and arg.arg not in ("self", "cls")]
    return [arg.annotation is not None for arg in parameters] + [function.returns is not None]


def public(node: Documented) -> Iterator[Documented]:
    """Yields a module (or class) and all public classes, functions and methods inside it."""
    yield node
    for child in () if isinstance(node, Function) else node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield from public(child)


def share(parts: Iterable[bool]) -> str:
    """Formats the percentage of true values."""
    known = list(parts)
    return f"{100 * sum(known) / max(len(known), 1):.1f} % of {len(known):,}"


# ---- printing


def room_lines(modules: Modules, imports_of: Graph) -> Iterator[str]:
    """Yields the lines of the table of packages."""
    yield f"{'':32}{'rooms':>8}{'floors':>8}{'arrows':>8}"
    for package in packages(modules):
        arrows = rooms_of(package, imports_of)
        n_arrows = sum(map(len, arrows.values()))
        yield f"{package:32}{len(arrows):8}{count_floors(arrows):8}{n_arrows:8}"


def figure_lines(modules: Modules) -> Iterator[str]:
    """Yields statistics about files, functions, type annotations and docstrings."""
    files = list(modules.values())
    defs = [(node, file) for file in files for node in functions(file)]
    longest, home = max(defs, key=lambda found: length(found[0]))
    median = statistics.median(length(node) for node, _ in defs)
    code_median = statistics.median(code_length(node) for node, _ in defs)
    types = [given for node, _ in defs for given in annotated(node)]
    docs = [ast.get_docstring(node) is not None for file in files for node in public(file.tree)]
    yield f"files       {len(files)}, {sum(file.n_lines for file in files):,} lines"
    yield f"functions   {len(defs):,}"
    yield f"median      {median:.0f} lines, {code_median:.0f} without docstring"
    yield f"longest     {length(longest)} lines, {home.name}.{longest.name}"
    yield f"annotated   {share(types)} parameters and results"
    yield f"documented  {share(docs)} public modules, classes and functions"
    for file in files:
        if file.n_lines > LONG_FILE:
            yield f"over {LONG_FILE}    {file.name}, {file.n_lines} lines"


def main(argv: list[str] | None = None) -> int:
    """Prints statistics, or with `--check` only violations; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="fail if an import violates the rules")
    parser.add_argument("root", type=Path, nargs="?", default=ROOT, help="a checkout of nntrain")
    args = parser.parse_args(argv)
    modules = read_modules(args.root)
    imports_of = import_graph(modules)
    if not args.check:
        print(*room_lines(modules, imports_of), "", *figure_lines(modules), sep="\n")
    problems = package_circles(modules, imports_of) + breaches(imports_of)
    print(*problems, sep="\n", end="\n" if problems else "")
    return int(args.check and bool(problems))


if __name__ == "__main__":
    sys.exit(main())
