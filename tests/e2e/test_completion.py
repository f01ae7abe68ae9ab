"""Tab completion in bash, as the README installs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
eval "$(nntrain -sc install=bash)"
function=$(complete -p nntrain | sed -E 's/.*-F ([^ ]+).*/\\1/')
COMP_LINE="nntrain $1" COMP_POINT=$((8 + ${#1})) COMP_CWORD=1 COMPREPLY=()
$function
echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("model=", "model=autoencoder model=cnn model=mlp model=resnet"),
        ("model.hi", "model.hidden="),
        ("n_e", "n_epoch="),
    ],
)
def test_groups_and_keys_are_completed(typed: str, expected: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "bash", typed],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("args", [["--help"], ["-sc", "query=bash"], ["--cfg", "job"]], ids=str)
def test_help_and_completion_do_not_import_large_libraries(args: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nntrain.run", *args],
        cwd=tmp_path,
        env={**os.environ, "COMP_LINE": "nntrain model=", "COMP_POINT": "14", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
    }
    assert {"nntrain", "hydra"} <= imported
    assert not imported & {"torch", "numpy", "optuna", "mlflow", "wandb", "sklearn", "matplotlib"}
