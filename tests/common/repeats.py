"""The number of repeats and the sizes of the measurements in docs/reliability.md."""

import os
from typing import TypeVar

_T = TypeVar("_T")

REPEATS = int(os.environ.get("NNTRAIN_TEST_REPEATS", "1"))
"""How often each selected test runs."""


def full(measured: _T, suite: _T) -> _T:
    """Returns `measured` if tests are repeated, and the cheaper `suite` otherwise."""
    return measured if REPEATS > 1 else suite
