"""`learn.tracker` of a tracked fit writes to the journal; a full disk does not stop training."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from nntrain import Callback, Learner
from nntrain.integrations.callback import TrackerCallback
from nntrain.integrations.journal.records import RunRecord, read_journal
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.shipping.client import InProcess, Offline
from nntrain.integrations.tracker import ModelFile
from nntrain.result import StopReason
from tests.common.toys import toy_learner


class At(Callback):
    """Calls a function after each training batch."""

    order: ClassVar[int] = 100

    def __init__(self, call: Callable[[Learner], None]) -> None:
        self.call = call

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            self.call(learn)


def fit(folder: Path, call: Callable[[Learner], None], **options: Any) -> tuple[Learner, RunRecord]:
    callback = TrackerCallback({}, folder, shipper=Offline(), **options)
    learn = toy_learner(cbs=[callback, At(call)])
    learn.fit(1)
    return learn, read_journal(folder)


def test_metrics_are_recorded_at_the_batch_or_the_given_step(tmp_path: Path) -> None:
    def log(learn: Learner) -> None:
        value = torch.tensor(float(learn.train_iter))
        learn.tracker.log_metrics({"mem/peak_gib": value, "nan": float("nan")})
        learn.tracker.log_metrics({"other": 1}, step=2**63 - 1)
        value += 100  # does not change the logged value, because logging copies it

    learn, record = fit(tmp_path / "run", log)
    n = learn.train_iter
    assert n > 3
    assert record.metrics["mem/peak_gib"].step.tolist() == list(range(1, n + 1))
    assert record.metrics["mem/peak_gib"].value.tolist() == list(range(1, n + 1))
    assert record.metrics["nan"].value.tolist() == pytest.approx([float("nan")] * n, nan_ok=True)
    assert record.metrics["other"].step.tolist() == [2**63 - 1] * n


@dataclass
class Drawing:
    """A fake figure with a `savefig` method."""

    content: bytes = b"an image"

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        Path(fname).write_bytes(self.content)


def test_figures_tables_and_files_are_recorded_as_they_are_at_the_call(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"

    def log(learn: Learner) -> None:
        file.write_text(str(learn.train_iter))
        learn.tracker.log_artifact(file, "reports/a.txt")
        learn.tracker.log_figure(Drawing(), "plots/a.png")
        learn.tracker.log_table("t", ["a", "b"], [[learn.train_iter, "x"]])

    learn, record = fit(tmp_path / "run", log)
    n = learn.train_iter
    artifacts = [found for found in record.files if found.kind == "artifact"]
    assert [found.path.read_text() for found in artifacts] == [str(i) for i in range(1, n + 1)]
    assert {found.name for found in artifacts} == {"reports/a.txt"}
    assert {
        (found.name, found.path.read_bytes()) for found in record.files if found.kind == "figure"
    } == {("plots/a.png", b"an image")}
    assert [table.rows for table in record.tables] == [[[i, "x"]] for i in range(1, n + 1)]
    assert len({found.path for found in record.files}) == 2 * n


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with space for only a small journal."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip("needs permission to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_files_that_do_not_fit_on_the_disk_do_not_stop_training(
    tmp_path: Path, full_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(b"x" * 200_000)

    def log(learn: Learner) -> None:
        learn.tracker.log_artifact(large)
        learn.tracker.log_figure(Drawing(b"x" * 200_000), "a.png")

    learn, record = fit(full_disk / "run", log, models=[ModelFile(large, "best.pt")], logs=[large])
    assert learn.result.reason is StopReason.COMPLETED
    assert learn.tracker.refused == {"large.bin": learn.train_iter, "a.png": learn.train_iter}
    messages = [
        record.getMessage() for record in caplog.records if "No space left" in record.getMessage()
    ]
    assert len(messages) == 4
    assert record.files == []


def test_fits_of_one_learner_are_one_run_and_a_resumed_fit_continues_it(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    callback = TrackerCallback({"memory": tracker}, tmp_path / "first", shipper=InProcess())
    learn = toy_learner(cbs=[callback])
    learn.fit(1)
    learn.fit(1)
    n = learn.train_iter
    assert [step for step, _ in tracker.series("batch/loss")] == list(range(1, n + 1))
    state = callback.state_dict()
    again = TrackerCallback({"memory": tracker}, tmp_path / "second", shipper=InProcess())
    again.load_state_dict(state)
    other = toy_learner(cbs=[again])
    other.train_iter = n // 2
    other.fit(1)
    assert len(tracker.runs) == 1
    steps = [step for step, _ in tracker.series("batch/loss")]
    assert sorted(steps) == list(range(1, n + 1))
    assert read_journal(tmp_path / "first").continued_by == str(
        tmp_path / "second" / "journal.jsonl"
    )
