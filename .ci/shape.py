"""Prints the shape of the code: rooms, floors and arrows by package; files, functions, docstrings.

A room is a module or a sub-package directly below a package. An arrow is an import from one room to
another, however many lines it takes. Floors are the rooms on the longest chain of arrows; rooms
that import each other in a circle share one.

Imports inside functions count; imports for type checkers do not. A name that the `__init__` of a
package exports, lazily or not, counts as an import of the module that defines it, so an `__init__`
is not a room. Packages are read from where the package-dir mapping of pyproject.toml puts them, and
Hydra's plugin is a room of the sweeps.

`--check` fails if a package and another room import each other in a circle, or if an import does
not follow FLOORS.
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

# The floors of nntrain from the ground up, and their rooms. A room may import from lower floors and
# from its neighbours; a bar is a wall between neighbours. "*" stands for the rooms not named here.
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
    """A source file under the name that imports it."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def n_lines(self) -> int:
        """The number of its lines."""
        return len(self.text.splitlines())

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__` of a package."""
        return self.path.name == "__init__.py"


Modules = Mapping[str, Module]

# ---- modules


def read_modules(root: Path) -> dict[str, Module]:
    """Reads the packages that pyproject.toml lists; returns their modules by name."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    modules = [
        read_module(path, package)
        for package in settings["packages"]
        for path in sorted((root / folder_of(package, settings["package-dir"])).glob("*.py"))
    ]
    return {module.name: module for module in modules}


def folder_of(package: str, package_dir: Mapping[str, str]) -> Path:
    """Returns the folder of a package, relative to the root, as setuptools finds it."""
    if package in package_dir:
        return Path(package_dir[package])
    parent, _, last = package.rpartition(".")
    return folder_of(parent, package_dir) / last if parent else Path(last)


def read_module(path: Path, package: str) -> Module:
    """Parses one file of a package."""
    text = path.read_text()
    name = package if path.stem == "__init__" else f"{package}.{path.stem}"
    return Module(name.replace(*PLUGIN), path, text, ast.parse(text))


# ---- imports


def import_graph(modules: Modules) -> dict[str, set[str]]:
    """Returns which modules each module imports."""
    return {
        name: {found for target in imports(module) if (found := resolve(target, modules))} - {name}
        for name, module in modules.items()
    }


def imports(module: Module) -> Iterator[str]:
    """Yields the dotted names that a module imports when it runs."""
    for node in runtime_nodes(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.replace(*PLUGIN) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from imported_names(node, module).values()


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields a node and those below it, except for what only type checkers read."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        children = node.orelse
    for child in children:
        yield from runtime_nodes(child)


def imported_names(node: ast.ImportFrom, module: Module) -> dict[str, str]:
    """Returns the names that a `from ... import` binds, with the dotted names they stand for."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    source = resolve_name("." * node.level + (node.module or ""), package).replace(*PLUGIN)
    return {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}


def resolve(target: str, modules: Modules) -> str | None:
    """Returns the module that defines a dotted name, or None if the name is not ours."""
    if target in modules or not target:
        return target or None
    parent, _, name = target.rpartition(".")
    exported = exports(modules[parent]) if parent in modules else {}
    return resolve(exported.get(name, parent), modules)


def exports(module: Module) -> dict[str, str]:
    """Returns the names that the `__init__` of a package takes from elsewhere.

    A lazy `__init__` has them in its `if TYPE_CHECKING:` block.
    """
    names: dict[str, str] = {}
    for node in ast.walk(module.tree) if module.is_package else ():
        if isinstance(node, ast.ImportFrom):
            names |= imported_names(node, module)
    return names


# ---- rooms


def rooms_of(package: str, imports_of: Graph) -> dict[str, set[str]]:
    """Returns the rooms directly below a package, each with the other rooms that it imports."""
    arrows: dict[str, set[str]] = {}
    for module, targets in imports_of.items():
        if room := room_of(module, package):
            others = {room_of(target, package) for target in targets}
            arrows.setdefault(room, set()).update(others - {room, ""})
    return arrows


def room_of(module: str, package: str) -> str:
    """Returns the room of a package that a module is in; empty for a module outside of it."""
    below = module.removeprefix(f"{package}.")
    return "" if below == module else below.split(".")[0]


def reachable(start: str, arrows: Graph) -> set[str]:
    """Returns what can be reached by following arrows, `start` itself only by a circle."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = arrows[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def count_floors(arrows: Graph) -> int:
    """Returns how many rooms the longest chain of arrows has; a circle counts as one."""
    below = {room: reachable(room, arrows) for room in arrows}

    @cache
    def height(room: str) -> int:
        lower = [other for other in below[room] if room not in below[other]]
        return 1 + max(map(height, lower), default=0)

    return max(map(height, arrows), default=0)


def circles(arrows: Graph) -> list[set[str]]:
    """Returns the groups of rooms that import each other in a circle."""
    below = {room: reachable(room, arrows) for room in arrows}
    groups = {
        frozenset(other for other in below[room] if room in below[other])
        for room in sorted(arrows)
        if room in below[room]
    }
    return [set(group) for group in sorted(groups, key=sorted)]


# ---- rules


def package_circles(modules: Modules, imports_of: Graph) -> list[str]:
    """Returns a line for each circle of rooms that has a package in it."""
    names = packages(modules)
    rooms = {package: rooms_of(package, imports_of) for package in names}
    return [
        f"a circle in {package}: {arrows_within(circle, arrows)}"
        for package, arrows in rooms.items()
        for circle in circles(arrows)
        if any(f"{package}.{room}" in names for room in circle)
    ]


def arrows_within(rooms: set[str], arrows: Graph) -> str:
    """Returns the arrows between some rooms, for reading."""
    return ", ".join(
        f"{room} -> {other}" for room in sorted(rooms) for other in sorted(arrows[room] & rooms)
    )


def breaches(imports_of: Graph) -> list[str]:
    """Returns a line for each import that does not follow FLOORS."""
    return [
        f"{module} must not import {target}: see FLOORS in .ci/shape.py"
        for module, targets in imports_of.items()
        for target in sorted(targets)
        if not may_import(module, target)
    ]


def may_import(module: str, target: str) -> bool:
    """Whether FLOORS allow a module of nntrain to import another."""
    here, there = place(module), place(target)
    return there == here or there[0] < here[0]


def place(module: str) -> tuple[int, str]:
    """Returns the floor of a module, and its part of that floor in FLOORS."""
    places = {
        room: (height, part)
        for height, floor in enumerate(FLOORS)
        for part in floor.split("|")
        for room in part.split()
    }
    return places.get(room_of(module, "nntrain"), places["*"])


# ---- figures


def packages(modules: Modules) -> list[str]:
    """Returns the names of the packages."""
    return [name for name, module in modules.items() if module.is_package]


def functions(module: Module) -> list[Function]:
    """Returns all functions of a module, methods and inner ones included."""
    return [node for node in ast.walk(module.tree) if isinstance(node, Function)]


def length(function: Function) -> int:
    """Returns the number of lines from `def` to the end."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def code_length(function: Function) -> int:
    """Returns the number of lines without the docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    return length(function) - has_docstring * ((first.end_lineno or 0) - first.lineno + 1)


def annotated(function: Function) -> list[bool]:
    """Returns for each parameter, and for the result, whether it is annotated."""
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    parameters = [arg for arg in every if arg and arg.arg not in ("self", "cls")]
    return [arg.annotation is not None for arg in parameters] + [function.returns is not None]


def public(node: Documented) -> Iterator[Documented]:
    """Yields a module, and its public classes, functions and methods."""
    yield node
    for child in () if isinstance(node, Function) else node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield from public(child)


def share(parts: Iterable[bool]) -> str:
    """Returns how many parts are true, in percent."""
    known = list(parts)
    return f"{100 * sum(known) / max(len(known), 1):.1f} % of {len(known):,}"


# ---- printing


def room_lines(modules: Modules, imports_of: Graph) -> Iterator[str]:
    """Yields the table of packages."""
    yield f"{'':32}{'rooms':>8}{'floors':>8}{'arrows':>8}"
    for package in packages(modules):
        arrows = rooms_of(package, imports_of)
        n_arrows = sum(map(len, arrows.values()))
        yield f"{package:32}{len(arrows):8}{count_floors(arrows):8}{n_arrows:8}"


def figure_lines(modules: Modules) -> Iterator[str]:
    """Yields the figures of files, functions, annotations and docstrings."""
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
    """Prints the figures, or with `--check` what breaks the rules; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="fail if the imports break a rule")
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
