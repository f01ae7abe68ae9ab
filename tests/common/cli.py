"""Running `python -m nntrain.run` as a user does."""

import os
import subprocess
import sys
from pathlib import Path


def nntrain_run(*args: str, cwd: Path | None = None, timeout_s: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    """The finished process, with what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "nntrain.run", *args],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; folders end in a slash."""
    return {
        str(path.relative_to(folder)) + ("/" if path.is_dir() else ""): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }
