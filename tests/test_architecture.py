"""docs/architecture.md names files and functions that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
WALKS = dict(
    re.findall(
        r"^### (.+?)\n(.+?)(?=^##)",
        TEXT[TEXT.index("## A stranger's walk") :],
        re.DOTALL | re.MULTILINE,
    )
)


def listed_rooms(folder: str) -> set[str]:
    """Returns the modules and packages that the map lists below a folder."""
    block = re.search(rf"^    {folder}/.*\n((?:      .*\n)+)", TEXT, re.MULTILINE)
    assert block is not None
    return set(re.findall(r"^      ([\w.]+)", block[1], re.MULTILINE))


@pytest.mark.parametrize("folder", ["nntrain", "integrations", "sweeps"])
def test_the_map_lists_every_room(folder: str) -> None:
    modules = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
    packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert listed_rooms(folder) == modules | packages


def defined_names(path: Path) -> set[str]:
    """Returns the functions, classes and constants of a file, and methods as `m` and `Class.m`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
            names |= {node.name, *(f"{node.name}.{name}" for name in methods), *methods}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_four_walks_are_there() -> None:
    assert list(WALKS) == [
        "A batch's loss to MLflow",
        "An override to an Optuna distribution",
        "A trial's value to Optuna's state",
        "A tracker's settings",
    ]


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_names_at_most_seven_files(walk: str) -> None:
    files = set(re.findall(r"[\w/]+\.(?:py|yaml)", WALKS[walk]))
    assert 1 < len(files) <= 7
    assert [name for name in files if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_names_code_that_exists(walk: str) -> None:
    files = re.findall(r"`([\w/]+\.py)`", WALKS[walk])
    known = set().union(*(defined_names(ROOT / name) for name in files))
    spans = re.findall(r"`([A-Za-z_][\w.]*)`", re.sub(r"`[\w/]+\.py`", "", WALKS[walk]))
    elsewhere = {"MetricRow", "StopReason", "FitResult", "Metric"}  # the types of the values
    assert len(spans) >= 5
    assert [name for name in spans if name not in known | elsewhere | {"_target_"}] == []


# --- rules that hold everywhere


def calls() -> Iterator[tuple[Path, ast.Call, list[ast.AST]]]:
    """Yields each call in the three packages, with the nodes around it."""
    for package in ("nntrain", "integrations", "sweeps"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from ((path, *found) for found in _calls(ast.parse(path.read_text()), []))


def _calls(node: ast.AST, around: list[ast.AST]) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
    if isinstance(node, ast.Call):
        yield node, around
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, [*around, node])


TEXT_FILES = re.compile(r"(?:.*\.)?(?:open|fdopen|write_text|read_text)")
BINARY = re.compile(r"f?'[^']*b\+?'")
NOT_FILES = re.compile(r"os\.open|Image\.open|self\._open|os\.fdopen\(os\.dup")


def test_every_text_file_is_utf_8_in_every_locale() -> None:
    found = []
    for path, call, _ in calls():
        text, name = ast.unparse(call), ast.unparse(call.func)
        is_binary = any(BINARY.fullmatch(ast.unparse(arg)) for arg in call.args)
        is_text = TEXT_FILES.fullmatch(name) and not NOT_FILES.match(text) and not is_binary
        if is_text and "encoding=" not in text:
            found.append(f"{path.relative_to(ROOT)}:{call.lineno}: {text}")
    assert found == []


ACROSS_MACHINES = {"sweeps/study/policy.py", "sweeps/study/trials.py"}
"""Files that compare times of several machines, which share only UTC."""

WALL_CLOCKS = re.compile(r"time\.time(_ns)?|datetime\.now|datetime\.datetime\.now")


def test_durations_are_not_measured_by_the_clock_on_the_wall() -> None:
    found = []
    for path, call, around in calls():
        inside = [node for node in around if isinstance(node, ast.BinOp | ast.Compare)]
        is_duration = any(
            isinstance(node, ast.Compare) or isinstance(node.op, ast.Sub | ast.Add)
            for node in inside
        )
        is_age = "st_mtime" in "".join(map(ast.unparse, inside))  # the age of a file
        name = str(path.relative_to(ROOT))
        if not WALL_CLOCKS.fullmatch(ast.unparse(call.func)) or name in ACROSS_MACHINES:
            continue
        if is_duration and not is_age:
            found.append(f"{name}:{call.lineno}: {ast.unparse(inside[0])}")
    assert found == []
