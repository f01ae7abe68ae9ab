"""Redirects the output of a trial."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from nntrain.sweeps.study.trials import LOG

Output = Callable[[Path], AbstractContextManager[None]]
"""A function that, given a trial's folder, returns a context manager that redirects the output."""


def to_terminal(folder: Path) -> AbstractContextManager[None]:
    """Does not redirect the output."""
    return nullcontext()


@contextmanager
def to_file(folder: Path) -> Iterator[None]:
    """Writes all output, including that of compiled libraries, to `LOG` in the trial's folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(1), os.dup(2)]
    with open(folder / LOG, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, fd)
            os.close(kept)
