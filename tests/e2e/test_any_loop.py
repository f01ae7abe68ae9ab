"""`nntrain.track` with real stores and processes: outcomes, kills, resumes, documented loops."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import nntrain
from nntrain.integrations import MLflowTracker, read_journal
from nntrain.integrations.run import Run
from nntrain.integrations.shipping.client import InProcess
from nntrain.result import StopReason
from tests.common.servers import wait_until
from tests.common.training import (
    REPOSITORY,
    StoredRun,
    assert_delivered,
    n_runs,
    processes_in,
    stored_run,
)

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs/tracking.md"
LATE_S = 1.0
"""The time in seconds after which a point must be in the journal, even after a kill."""


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """MLflow's default database in the folder of the test."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


# --- outcomes

EXCEPTIONS = [
    (None, "FINISHED", "completed"),
    (SystemExit(0), "FINISHED", "completed"),
    (SystemExit(1), "FAILED", "error"),
    (SystemExit(143), "KILLED", "interrupted"),
    (KeyboardInterrupt(), "KILLED", "interrupted"),
    (ValueError("boom"), "FAILED", "error"),
    (MemoryError(), "FAILED", "out_of_memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), "FAILED", "out_of_memory"),
    (optuna.TrialPruned("not promising"), "KILLED", "pruned"),
    *(
        (nntrain.CancelFitException("enough", reason=reason), status, str(reason))
        for reason, status in [
            (StopReason.EARLY_STOPPED, "FINISHED"),
            (StopReason.BUDGET, "FINISHED"),
            (StopReason.PRUNED, "KILLED"),
            (StopReason.DIVERGED, "FAILED"),
        ]
    ),
]


@pytest.mark.parametrize(("error", "status", "outcome"), EXCEPTIONS, ids=repr)
def test_the_outcome_decides_the_status_in_mlflow(
    database: Path, error: BaseException | None, status: str, outcome: str
) -> None:
    tracker = MLflowTracker(f"sqlite:///{database}", system_metrics=False)
    with (
        suppress(BaseException),
        nntrain.track(tracker, folder="run", shipper=InProcess()) as run,
    ):
        run.log_metrics({"a": 1.0}, 1)
        if error is not None:
            raise error
    stored = assert_delivered(read_journal("run"), database)
    assert (stored.status, stored.tags["nntrain.outcome"]) == (status, outcome)
    assert ("Traceback" in stored.tags.get("nntrain.traceback", "")) is (status == "FAILED") & (
        outcome in ("error", "out_of_memory")
    )


# --- processes

LOOP = """
import os, sys, time
import nntrain
from nntrain.integrations import MLflowTracker

first, resume = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
seen = os.open("seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
options = {"resume": resume, "resume_step": first - 1} if resume else {"folder": "run"}
with nntrain.track(MLflowTracker(), **options) as run:
    for step in range(first, first + int(os.environ["STEPS"])):
        run.log_metrics({"loss": 1 / step}, step)
        os.write(seen, f"{step} {time.time()}\\n".encode())
        time.sleep(0.002)
print("torch" in sys.modules)
"""


@contextmanager
def loop(*args: str, steps: int = 10**6) -> Iterator[subprocess.Popen[str]]:
    """Runs `LOOP` in a process that is killed at the end of the block if still running."""
    env = {**os.environ, "STEPS": str(steps), "OMP_NUM_THREADS": "1"}
    Path("loop.py").write_text(LOOP)
    command = [sys.executable, "loop.py", *args]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def seen() -> list[tuple[int, float]]:
    """Returns the steps that the loop has logged, with their Unix times in seconds."""
    path = Path("seen")
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(step), float(at)) for step, at in (line.split() for line in lines)]


def wait_until_ended(database: Path) -> StoredRun:
    """Waits until MLflow shows the end of the run and the shipper exits; checks the delivery."""

    def has_ended() -> bool:
        stored = stored_run(database, read_journal("run").run.uid)
        return stored is not None and stored.status != "RUNNING"

    wait_until(has_ended, "the end of the run", 30)
    wait_until(lambda: processes_in(Path.cwd()) == [], "the end of the shipper", 30)
    return assert_delivered(read_journal("run"), database)


def test_the_process_waits_for_the_delivery_and_does_not_import_torch(
    database: Path,
) -> None:
    with loop("1", steps=50) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (0, "False"), err
    stored = assert_delivered(read_journal("run"), database)
    assert stored.status == "FINISHED"
    assert [step for step, _, _ in stored.points["loss"]] == list(range(1, 51))


def test_ctrl_c_ends_the_run_as_killed(database: Path) -> None:
    with loop("1") as process:
        wait_until(lambda: len(seen()) >= 100, "100 steps")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    stored = assert_delivered(read_journal("run"), database)
    assert (stored.status, stored.tags["nntrain.outcome"]) == ("KILLED", "interrupted")
    steps = [step for step, _, _ in stored.points["loss"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= len(seen())


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_loop_keeps_all_points_older_than_a_second_and_its_run_is_killed(
    database: Path, signum: signal.Signals
) -> None:
    with loop("1") as process:
        wait_until(lambda: len(seen()) >= 600, "600 steps")
        process.send_signal(signum)
        process.wait()
        killed_s = time.time()
    stored = wait_until_ended(database)
    assert (stored.status, stored.tags["nntrain.outcome"]) == ("KILLED", "interrupted")
    early = [step for step, at in seen() if at < killed_s - LATE_S]
    assert len(early) > 10
    steps = [step for step, _, _ in stored.points["loss"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= len(early)


def test_a_killed_loop_that_resumes_at_once_is_one_run_without_duplicate_points(
    database: Path,
) -> None:
    with loop("1") as process:
        wait_until(lambda: len(seen()) >= 600, "600 steps")
        process.kill()
        process.wait()
    with loop("101", "run", steps=100) as process:  # as if restored from a checkpoint at step 100
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert n_runs(database) == 1
    record = read_journal("run")
    stored = stored_run(database, record.run.uid)
    assert stored is not None
    assert stored.status == "FINISHED"
    assert record.metrics["loss"].step.tolist() == list(range(1, 201))
    points = stored.points["loss"]
    # MLflow also contains the points after step 200 that the killed process delivered.
    assert sorted({step for step, _, _ in points})[:200] == list(range(1, 201))
    assert len(points) == len({step for step, _, _ in points})


# --- the documentation


def blocks(section: str) -> list[tuple[int, str]]:
    """Returns the Python blocks of a section, each with the number of its first line."""
    text = PAGE.read_text()
    start = text.index(f"\n{section}\n")
    level = section.split()[0]
    end = re.search(rf"^#{{2,{len(level)}}} ", text[start + len(section) + 2 :], re.MULTILINE)
    stop = start + len(section) + 2 + end.start() if end else len(text)
    return [
        (text.count("\n", 0, start + found.start(1)), found[1])
        for found in re.finditer(r"```python\n(.*?)```", text[start:stop], re.DOTALL)
    ]


def run_block(names: dict[str, Any], line: int, block: str) -> Run:
    """Runs a block and waits for the delivery of its run."""
    exec(compile("\n" * line + block, str(PAGE), "exec"), names)
    run = names["run"]
    assert isinstance(run, Run)
    run.finish()
    return run


def stored(database: Path, run: Run) -> StoredRun:
    found = stored_run(database, run.uid)
    assert found is not None
    return found


@pytest.fixture
def plain(database: Path) -> dict[str, Any]:
    """Runs the first block of the section and returns the variables of the block."""
    names: dict[str, Any] = {"__name__": "tracking"}
    run_block(names, *blocks("## Any training loop")[0])
    return names


def test_the_plain_loop_of_the_docs_stops_early_and_resumes(
    database: Path, plain: dict[str, Any]
) -> None:
    n = plain["step"]
    first = stored(database, plain["run"])
    assert (first.status, first.tags["nntrain.outcome"]) == ("FINISHED", "early_stopped")
    assert [step for step, _, _ in first.points["batch/loss"]] == list(range(1, n + 1))
    assert len(first.points["valid/accuracy"]) == n / 16
    models = [file.name for file in read_journal("outputs/plain").files if file.kind == "model"]
    assert models == ["last.pt"]

    run = run_block(plain, *blocks("## Any training loop")[1])
    assert n_runs(database) == 1
    again = stored(database, run)
    assert (again.status, again.tags["nntrain.outcome"]) == ("FINISHED", "completed")
    assert [step for step, _, _ in again.points["batch/loss"]] == list(range(1, n + 2))


def test_the_trainer_of_the_docs_is_tracked(database: Path, plain: dict[str, Any]) -> None:
    (line, callback), training = blocks("### Hugging Face Trainer")
    assert len(callback.strip().splitlines()) <= 15
    exec(compile("\n" * line + callback, str(PAGE), "exec"), plain)
    run = run_block(plain, *training)
    found = stored(database, run)
    assert (found.status, found.tags["nntrain.outcome"]) == ("FINISHED", "completed")
    history = plain["trainer"].state.log_history
    for key in ("loss", "eval_loss", "learning_rate"):
        expected = [(row["step"], row[key]) for row in history if key in row]
        points = [(step, float(value)) for step, _, value in found.points[key]]
        assert points == expected, key
    assert len(found.points["loss"]) == 32
    assert not run.refused
    params = read_journal(run.folder).run.params
    assert (params["learning_rate"], params["hub_token"]) == (0.1, "***")


def test_the_run_of_a_trainer_that_stops_early_has_stopped_early(
    database: Path, plain: dict[str, Any]
) -> None:
    (line, callback), (next_line, training) = blocks("### Hugging Face Trainer")
    exec(compile("\n" * line + callback, str(PAGE), "exec"), plain)

    class Stops(plain["TrainerCallback"]):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 5

    plain["Stops"] = Stops
    stopping = training.replace(
        "    trainer.train()", "    trainer.add_callback(Stops())\n    trainer.train()"
    )
    found = stored(database, run_block(plain, next_line, stopping))
    assert (found.status, found.tags["nntrain.outcome"]) == ("FINISHED", "early_stopped")


@pytest.mark.filterwarnings("default")  # from Lightning
def test_the_lightning_callback_of_the_docs_is_tracked(
    database: Path, plain: dict[str, Any]
) -> None:
    lightning = pytest.importorskip("lightning")
    ((line, callback),) = blocks("### Lightning")
    exec(compile("\n" * line + callback, str(PAGE), "exec"), plain)
    loader = DataLoader(TensorDataset(plain["x"], plain["y"]), batch_size=32)
    with nntrain.track(MLflowTracker(), name="lightning") as run:
        trainer = lightning.Trainer(
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            accelerator="cpu",
            callbacks=[plain["LogToRun"](run)],
        )
        trainer.fit(lightning_module(lightning), loader)
    run.finish()
    found = stored(database, run)
    assert found.status == "FINISHED"
    assert [step for step, _, _ in found.points["batch/loss"]] == list(range(1, 33))
    assert len(found.points["train_loss"]) == 2


def lightning_module(lightning: Any) -> Any:
    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 2)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = torch.nn.functional.cross_entropy(self.linear(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()
