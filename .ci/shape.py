"""Prints the shape of the code: rooms, floors and arrows of imports by package, long files, functions, annotations, docstrings.

A room is a module or sub-package directly below a package. An arrow is an import from one room to another (imports for type
checkers only are left out, those inside functions count). A floor is a step of the longest chain of arrows.
`--check` fails if packages import each other in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG_FILE = 400

Graph = Mapping[str, set[str]]
