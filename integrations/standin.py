"""Doing without torch: an unexecuted module stands in for the package `nntrain` in a process that only ships.

Importing any module of a package first executes the package, and `nntrain/__init__.py` imports torch: a second of start and
200 MB of memory that the shipper has no use for.
"""

from __future__ import annotations

import sys


def run_whole_package() -> None:
    """Executes the package `nntrain` if only its stand-in is there, for code that imports names from it."""
    package = sys.modules["nntrain"]
    if (
        not hasattr(package, "Learner")
        and package.__spec__ is not None
        and package.__spec__.loader is not None
    ):
        package.__spec__.loader.exec_module(package)
