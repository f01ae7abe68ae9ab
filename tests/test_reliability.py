"""docs/reliability.md names tests that exist, and has every row of the list of faults."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reliability.md"
ROWS = [f"F{i}" for i in range(1, 21)] + [f"B{i}" for i in range(1, 10)] + ["L1", "L2", "L3"]

NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE.read_text())))


def test_every_fault_has_a_row() -> None:
    rows = re.findall(r"^\| ([FBL]\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(ROWS)


@pytest.mark.parametrize(("path", "name"), NAMED, ids="::".join)
def test_every_named_test_exists(path: str, name: str) -> None:
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    assert not name or name in functions
