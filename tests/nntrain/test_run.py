"""The final table of a run, and the check of its objective."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nntrain import FitResult, StopReason
from nntrain.app.objectives import check_objective
from nntrain.app.train import final_table
from nntrain.config.errors import ConfigError


def test_the_final_table_has_the_outcome_and_the_last_metrics() -> None:
    result = FitResult(
        StopReason.BUDGET,
        "time is up",
        {"epoch": 1.0, "valid/loss": 0.25, "time/epoch_s": 3.0},
        n_epoch=2,
    )
    assert final_table(result).splitlines() == [
        "outcome:         budget after 2 epochs: time is up",
        "valid/loss:      0.25",
    ]


def test_an_objective_that_is_not_recorded_is_refused() -> None:
    check_objective(None, [])
    check_objective("valid/loss", ["train/loss", "valid/loss"])
    known = "train/loss, time/epoch_s, time/batch_ms, time/data_wait_ms"
    with pytest.raises(
        ConfigError,
        match=f"valid/acc will not be recorded: set objective to one of {known}, or to null",
    ):
        check_objective("valid/acc", ["train/loss"])
    check_objective(["valid/loss", "time/epoch_s"], ["train/loss", "valid/loss"])
    with pytest.raises(ConfigError, match="objective=valid/acc will not be recorded"):
        check_objective(["valid/loss", "valid/acc"], ["valid/loss"])


@pytest.mark.slow
def test_a_current_folder_that_was_removed_is_one_sentence(tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && {sys.executable} -m nntrain.run"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["bash", "-c", command]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "nntrain: The current folder cannot be used (No such file or directory): change to another "
        "folder with cd.\n"
    )
