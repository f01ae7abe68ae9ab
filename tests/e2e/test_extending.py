"""The files of docs/extending.md pass their tests, and its commands do what the page says."""

import csv
import json
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import nntrain
from nntrain.integrations import read_journal
from tests.common.cli import nntrain_run

ROOT = Path(nntrain.__file__).parents[1]
PAGE = ROOT / "docs/extending.md"

FILES = {
    found[1]: found[0]
    for found in re.findall(
        r"^```(?:python|yaml)\n(# (\S+)\n.*?)^```$", PAGE.read_text(), re.M | re.S
    )
}
"""The code blocks of the page by file name; the first line of each block is its file name."""

COMMANDS = re.findall(
    r"^    python -m nntrain\.run (.*)$", PAGE.read_text().replace("\\\n", ""), re.M
)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes all files of the page to a folder."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def run(folder: Path, word: str) -> subprocess.CompletedProcess[str]:
    """Runs the only command of the page in which the given word appears."""
    [command] = [command for command in COMMANDS if word in command]
    done = nntrain_run(*shlex.split(command), "device=cpu", "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_every_block_is_a_file_and_every_module_has_a_test() -> None:
    assert len(FILES) == PAGE.read_text().count("\n```\n") == 12
    modules = [Path(name).stem for name in FILES if name.startswith("mine/")]
    assert len(modules) == len(COMMANDS) == 4
    assert {f"tests/test_{module}.py" for module in modules} <= set(FILES)


def test_the_tests_of_the_page_pass_and_run_the_contracts(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "tests",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for name in (
        "TestGradientNoise::test_its_state_continues_in_a_resumed_fit",
        "TestSqliteTracker::test_a_run_continues_after_its_end",
    ):
        assert name in done.stdout


def test_the_callback_works_in_a_run(folder: Path) -> None:
    run(folder, "gradient_noise")
    record = read_journal(folder / "run")
    assert [float(value) for value in record.metrics["noise/std"].value] == pytest.approx(
        [0.1 / (1 + step) ** 0.55 for step in record.metrics["noise/std"].step]
    )
    assert record.run.params["callbacks.gradient_noise.scale"] == 0.1


def test_the_metric_is_recorded_in_a_run(folder: Path) -> None:
    run(folder, "max_error")
    metrics = read_journal(folder / "run").metrics
    assert len(metrics["valid/max_error"].value) == 2
    assert all(metrics["valid/max_error"].value > metrics["valid/mae"].value)


def test_the_tracker_stores_the_run(folder: Path) -> None:
    assert "SQLite run:" in run(folder, "tracker=sqlite").stdout
    with closing(sqlite3.connect(folder / "runs.db")) as database:
        [(uid, status)] = database.execute("SELECT uid, status FROM run").fetchall()
        query = "SELECT step, value FROM point WHERE key = 'batch/loss' ORDER BY step"
        points = database.execute(query).fetchall()
    record = read_journal(folder / "run")
    loss = record.metrics["batch/loss"]
    assert (uid, status) == (record.run.uid, "completed")
    assert points == list(zip(loss.step.tolist(), loss.value.tolist(), strict=True))
    state = json.loads((folder / "run/delivery/sqlite.json").read_text())
    assert state["done"]
    assert state["n_refused"] == 0
    assert "tags" in state["unsupported"]


def test_the_sampler_chooses_the_trials_of_a_sweep(folder: Path) -> None:
    run(folder, "around_best")
    study = folder / "multirun/around"
    assert read_journal(study).run.params["sampler"] == "AroundBest"
    with open(study / "trials.csv") as file:
        trials = [(float(row["valid/accuracy"]), float(row["lr"])) for row in csv.DictReader(file)]
    assert len(trials) == 4
    for number in range(1, 4):
        _, best = max(trials[:number], key=lambda trial: trial[0])
        assert (best + 0.001) / 2 <= trials[number][1] <= (best + 0.1) / 2


def test_every_link_works() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGE.read_text())
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
