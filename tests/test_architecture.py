"""docs/architecture.md names files and functions that exist."""

import ast
import re
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
