"""TensorBoard itself reads the event files of a run."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.plugins.hparams import api_pb2
from tensorboard.util.tensor_util import make_ndarray

from nntrain.integrations import TensorBoardTracker
from nntrain.integrations.tensorboard.client import TensorBoardClient
from nntrain.integrations.tracker import (
    STUDY_TAG,
    MetricRow,
    Refused,
    RunEnd,
    RunInfo,
    Table,
)
from nntrain.result import StopReason
from nntrain.testing import TrackerContract
from tests.common.tensorboard_store import (
    cells,
    html,
    number,
    read,
    scalars,
    sessions,
    shown,
    text,
)

UID, OTHER_UID, STUDY_UID = "0123456789abcdef", "fedcba9876543210", "00000000000000ff"
END = RunEnd(StopReason.COMPLETED, time_ms=9_000)


def rows_of(values: Sequence[float], key: str = "train/loss") -> list[MetricRow]:
    return [MetricRow(1_000 + step, step, {key: value}) for step, value in enumerate(values, 1)]


def client(tmp_path: Path) -> TensorBoardClient:
    made = TensorBoardTracker(str(tmp_path / "runs")).connect()
    assert isinstance(made, TensorBoardClient)
    return made


class TestTensorBoardTracker(TrackerContract):
    library = "tensorboard"
    statuses = {
        StopReason.COMPLETED: ("completed", api_pb2.STATUS_SUCCESS),
        StopReason.EARLY_STOPPED: ("early_stopped", api_pb2.STATUS_SUCCESS),
        StopReason.BUDGET: ("budget", api_pb2.STATUS_SUCCESS),
        StopReason.PRUNED: ("pruned", api_pb2.STATUS_SUCCESS),
        StopReason.DIVERGED: ("diverged", api_pb2.STATUS_FAILURE),
        StopReason.INTERRUPTED: ("interrupted", api_pb2.STATUS_FAILURE),
        StopReason.ERROR: ("error", api_pb2.STATUS_FAILURE),
        StopReason.OUT_OF_MEMORY: ("out_of_memory", api_pb2.STATUS_FAILURE),
    }

    def make_tracker(self, folder: Path) -> TensorBoardTracker:
        return TensorBoardTracker(str(folder / "runs"))

    def folder(self, run_id: str = "") -> Path:
        assert isinstance(self.tracker, TensorBoardTracker)
        return Path(str(self.tracker.log_dir), run_id)

    def read_runs(self) -> list[str]:
        return [path.name for path in self.folder().iterdir()]

    def read_series(self, run_id: str, key: str) -> list[tuple[int, float]]:
        return scalars(self.folder(run_id), key)

    def read_status(self, run_id: str) -> Any:
        [session] = sessions(self.folder())[run_id].sessions
        [_, [outcome, _]] = cells(text(self.folder(run_id), "nntrain/outcome"))
        return outcome, session.status

    def read_params(self, run_id: str) -> Mapping[str, Any]:
        """Returns the params, with TensorBoard's doubles converted back to integers."""
        params = shown(sessions(self.folder())[run_id])
        return {name: int(value) if value == 249.0 else value for name, value in params.items()}

    def read_tags(self, run_id: str) -> Mapping[str, str]:
        _, *rows = cells(text(self.folder(run_id), "nntrain/tags"))
        return dict(rows)

    def read_histogram(self, run_id: str, name: str) -> list[float]:
        [event] = read(self.folder(run_id)).Tensors(name)
        return list(make_ndarray(event.tensor_proto)[:, 2])

    def read_table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        head, *rows = cells(text(self.folder(run_id), name))
        return head, [[number(cell) for cell in row] for row in rows]

    def read_figure(self, run_id: str, name: str) -> bytes:
        [image] = read(self.folder(run_id)).Images(name)
        return bytes(image.encoded_image_string)

    def stored(self, value: float) -> float:
        with np.errstate(over="ignore", under="ignore"):
            return float(np.float32(value))


def test_scalars_have_the_steps_and_times_of_their_rows(tmp_path: Path) -> None:
    one = client(tmp_path)
    started = one.start(RunInfo(uid=UID, name="mine"))
    one.metrics([MetricRow(1_250, 3, {"a": 0.5, "b": 2.0}), MetricRow(2_500, 7, {"a": 0.25})])
    one.finish(END)
    found = read(tmp_path / "runs" / started.run_id)
    a, b = (
        [(event.wall_time, event.step, event.value) for event in found.Scalars(tag)]
        for tag in ("a", "b")
    )
    assert a == [(1.25, 3, 0.5), (2.5, 7, 0.25)]
    assert b == [(1.25, 3, 2.0)]


def test_values_are_in_the_file_when_a_call_returns(tmp_path: Path) -> None:
    one = client(tmp_path)
    folder = tmp_path / "runs" / one.start(RunInfo(uid=UID)).run_id
    one.metrics(rows_of([1.0]))
    assert scalars(folder, "train/loss") == [(1, 1.0)]
    one.set_tags({"late": "yes"})
    assert "| late | yes |" in text(folder, "nntrain/tags")
    one.finish(END)


def test_a_histogram_has_the_recorded_bins_without_empty_bins_at_the_ends(
    tmp_path: Path,
) -> None:
    one = client(tmp_path)
    folder = tmp_path / "runs" / one.start(RunInfo(uid=UID)).run_id
    edges = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    counts = {"act/head": [0.0, 3.0, 0.0, 4.0, 0.0], "act/dead": [0.0] * 5}
    one.histograms(MetricRow(2_000, 5, {}), edges, counts)
    one.finish(END)
    [head] = read(folder).Tensors("act/head")
    [dead] = read(folder).Tensors("act/dead")
    assert (head.step, head.wall_time) == (5, 2.0)
    expected = [[-1.0, 0.0, 3.0], [0.0, 1.0, 0.0], [1.0, 2.0, 4.0]]
    np.testing.assert_array_equal(make_ndarray(head.tensor_proto), expected)
    assert make_ndarray(dead.tensor_proto).shape == (0, 3)
    about = read(folder).SummaryMetadata("act/head")
    assert about.plugin_data.plugin_name == "histograms"


def test_a_figure_is_an_image_of_the_same_size(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5), "red").save(tmp_path / "1.png")
    one = client(tmp_path)
    folder = tmp_path / "runs" / one.start(RunInfo(uid=UID)).run_id
    one.figure(tmp_path / "1.png", "plots/loss.png", 9)
    one.finish(END)
    [image] = read(folder).Images("plots/loss.png")
    assert (image.step, image.width, image.height) == (9, 7, 5)
    assert image.encoded_image_string == (tmp_path / "1.png").read_bytes()


def test_texts_are_displayed_unchanged(tmp_path: Path) -> None:
    one = client(tmp_path)
    texts = {"config.yaml": "lr: 0.1\nmodel:\n  _target_: a*b*\n"}
    tags = {"command": "run 'a|b' <unk> `x` __init__ [y](z)", "error": "first\nsecond"}
    run = RunInfo(uid=UID, texts=texts, tags=tags)
    folder = tmp_path / "runs" / one.start(run).run_id
    one.table(Table("pairs", ["digit", "n"], [["thr_ee_", 3], [None, 4.5]]), 7)
    one.finish(RunEnd(StopReason.ERROR, "ValueError: *bad*", time_ms=9_000))
    code = "<pre><code>lr: 0.1\nmodel:\n  _target_: a*b*\n</code></pre>"
    assert html(folder, "nntrain/config.yaml") == code
    shown = html(folder, "nntrain/tags")
    assert "<td>run 'a|b' &lt;unk&gt; `x` __init__ [y](z)</td>" in shown
    assert "<td>first<br>second</td>" in shown
    assert "<td>thr_ee_</td>\n<td>3</td>" in html(folder, "pairs")
    assert "<td></td>\n<td>4.5</td>" in html(folder, "pairs")
    assert "<td>error</td>\n<td>ValueError: *bad*</td>" in html(folder, "nntrain/outcome")


def test_the_hparams_tab_compares_params_and_last_metrics(tmp_path: Path) -> None:
    for uid, lr in ((UID, 0.1), (OTHER_UID, 0.01)):
        one = client(tmp_path)
        params = {"lr": lr, "model._target_": "mine.MLP", "flag": True, "list": [1], "none": None}
        one.start(RunInfo(uid=uid, name=f"lr={lr}", params=params, time_ms=1_000))
        one.metrics(rows_of([3.0, 2.0, lr]))
        one.finish(END)
    found = sessions(tmp_path / "runs")
    assert sorted(found) == [f"lr=0.01-{OTHER_UID}", f"lr=0.1-{UID}"]
    group = found[f"lr=0.1-{UID}"]
    shown = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()
    }
    assert shown == {
        "lr": 0.1,
        "model._target_": "mine.MLP",
        "flag": True,
        "list": "[1]",
        "none": "None",
    }
    [metric] = group.metric_values
    assert (metric.name.tag, metric.training_step) == ("train/loss", 3)
    assert metric.value == pytest.approx(0.1)
    [session] = group.sessions
    assert (session.start_time_secs, session.end_time_secs) == (1.0, 9.0)


def test_a_param_that_is_not_finite_does_not_break_the_hparams_tab(tmp_path: Path) -> None:
    one = client(tmp_path)
    params = {"limit": float("inf"), "other": float("nan")}
    started = one.start(RunInfo(uid=UID, params=params))
    one.finish(END)
    group = sessions(tmp_path / "runs")[started.run_id]
    assert group.hparams["limit"].string_value == "inf"
    assert group.hparams["other"].string_value == "nan"


def test_a_resumed_run_has_one_curve_and_the_status_of_its_last_end(tmp_path: Path) -> None:
    rows = rows_of([4.0, 3.0, 2.0, 1.0])
    first = client(tmp_path)
    run_id = first.start(RunInfo(uid=UID, params={"lr": 1}, tags={"old": "1"})).run_id
    first.metrics(rows[:3])
    first.finish(RunEnd(StopReason.INTERRUPTED, time_ms=5_000))
    second = client(tmp_path)
    started = second.start(RunInfo(uid=UID, name="renamed", params={"lr": 1}), run_id)
    assert (started.run_id, started.rows) == (run_id, 3)
    second.metrics(rows[started.rows :])
    second.finish(END)
    folder = tmp_path / "runs" / run_id
    assert scalars(folder, "train/loss") == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert len(read(folder).Tensors("nntrain/outcome")) == 1
    assert "completed" in text(folder, "nntrain/outcome")
    [session] = sessions(tmp_path / "runs")[run_id].sessions
    assert session.status == api_pb2.STATUS_SUCCESS


def test_every_kind_of_row_counts_once_even_a_refused_figure(tmp_path: Path) -> None:
    one = client(tmp_path)
    one.start(RunInfo(uid=UID, texts={"a": "b"}, tags={"c": "d"}))
    one.metrics(rows_of([1.0, 2.0]))
    one.histograms(MetricRow(1, 1, {}), [0.0, 1.0], {"x": [1.0], "y": [2.0]})
    one.table(Table("t", ["n"], [[1], [2]]), 1)
    (tmp_path / "text.png").write_text("not an image")
    for name in ("gone.png", "text.png"):
        with pytest.raises(Refused, match=name):
            one.figure(tmp_path / name, name, 1)
    assert client(tmp_path).start(RunInfo(uid=UID)).rows == 2 + 1 + 1 + 2


@pytest.mark.parametrize("n_byte", [1, 10, 40])
def test_rows_lost_from_a_torn_event_file_are_written_again(tmp_path: Path, n_byte: int) -> None:
    rows = rows_of([4.0, 3.0, 2.0, 1.0])
    first = client(tmp_path)
    run_id = first.start(RunInfo(uid=UID)).run_id
    first.metrics(rows[:3])
    folder = tmp_path / "runs" / run_id
    [file] = folder.glob("*.rows")
    file.write_bytes(file.read_bytes()[:-n_byte])
    second = client(tmp_path)
    started = second.start(RunInfo(uid=UID))
    assert started.rows == 2
    second.metrics(rows[started.rows :])
    second.finish(END)
    assert scalars(folder, "train/loss") == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]


def test_an_event_file_torn_within_its_header_has_zero_rows(tmp_path: Path) -> None:
    one = client(tmp_path)
    folder = tmp_path / "runs" / one.start(RunInfo(uid=UID)).run_id
    [file] = folder.glob("*.rows")
    file.write_bytes(file.read_bytes()[:5])
    assert client(tmp_path).start(RunInfo(uid=UID)).rows == 0


WRITES_FOR_EVER = """
import itertools, sys
from nntrain.integrations.tensorboard import TensorBoardTracker
from nntrain.integrations.tracker import MetricRow, RunInfo
client = TensorBoardTracker(sys.argv[1]).connect()
started = client.start(RunInfo(uid=sys.argv[2]))
for step in itertools.count(started.rows + 1):
    client.metrics([MetricRow(1_000 + step, step, {"a": step, "b": -step})])
    if step == started.rows + 50:
        print("writing", flush=True)
"""


@pytest.mark.slow
def test_rows_are_neither_lost_nor_duplicated_when_the_writing_process_is_killed(
    tmp_path: Path,
) -> None:
    for _ in range(3):
        command = [sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path / "runs"), UID]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
    [folder] = (tmp_path / "runs").iterdir()
    steps = [step for step, _ in scalars(folder, "a")]
    assert len(steps) >= 150
    assert scalars(folder, "a") == [(step, step) for step in range(1, len(steps) + 1)]
    assert scalars(folder, "b") == [(step, -step) for step in range(1, len(steps) + 1)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_failed_write_the_next_start_continues(tmp_path: Path) -> None:
    one = client(tmp_path)
    folder = tmp_path / "runs" / one.start(RunInfo(uid=UID)).run_id
    one.metrics(rows_of([1.0]))
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="No such file"):
        one.metrics(rows_of([1.0, 2.0])[1:])
    assert one.start(RunInfo(uid=UID)).rows == 0
    one.metrics(rows_of([1.0, 2.0]))
    one.finish(END)
    assert scalars(folder, "train/loss") == [(1, 1.0), (2, 2.0)]


def test_trials_are_below_their_study_and_are_compared_without_it(tmp_path: Path) -> None:
    study = RunInfo(uid=STUDY_UID, name="s", group="s", tags={STUDY_TAG: "s"}, params={"a": 1})
    trials = [
        RunInfo(uid=uid, name=f"s-{i}", group="s", parent=STUDY_UID, params={"lr": i})
        for i, uid in enumerate((UID, OTHER_UID))
    ]
    ids = []
    for run in (trials[0], study, trials[1]):
        one = client(tmp_path)
        ids.append(one.start(run).run_id)
        one.finish(END)
    assert ids == [f"s-{STUDY_UID}/s-0-{UID}", f"s-{STUDY_UID}", f"s-{STUDY_UID}/s-1-{OTHER_UID}"]
    assert sorted(sessions(tmp_path / "runs")) == sorted(Path(ids[i]).name for i in (0, 2))


@pytest.mark.parametrize("name", ["../up", "..", "/etc/x", "a/b", "nul\0", "x" * 300, "é*?[a]"])
def test_every_name_stays_within_the_folder_of_all_runs(tmp_path: Path, name: str) -> None:
    one = client(tmp_path)
    for run in (
        RunInfo(uid=UID, name=name),
        RunInfo(uid=name, name=name),
        RunInfo(uid=OTHER_UID, name=name, group=name, parent=name),
    ):
        one.start(run)
        one.finish(END)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 9
    assert all(len(path.relative_to(tmp_path).parts) <= 4 for path in files)


def test_the_settings_use_the_folder_of_the_training_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TensorBoardTracker().resolved().log_dir == str(tmp_path / "runs")
    resolved = TensorBoardTracker("logs").resolved()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert resolved.resolved().log_dir == str(tmp_path / "logs")


def test_the_command_that_opens_the_run_is_shown(tmp_path: Path) -> None:
    one = TensorBoardTracker(str(tmp_path / "my runs")).connect()
    where = one.start(RunInfo(uid=UID, name="mine")).where
    assert where == (
        f"TensorBoard run: mine\nlook at it:      tensorboard --logdir '{tmp_path / 'my runs'}'"
    )


def test_a_missing_package_is_an_error_of_one_sentence_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'nntrain\[tensorboard\]'\.$"):
        TensorBoardTracker()


@pytest.mark.slow
def test_the_settings_do_not_import_tensorboard_and_the_client_not_torch() -> None:
    code = (
        "import sys\n"
        "from nntrain.integrations import TensorBoardTracker\n"
        "tracker = TensorBoardTracker()\n"
        "print('tensorboard' in sys.modules)\n"
        "tracker.connect()\n"
        "print(sorted({'tensorboard', 'tensorflow', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n['tensorboard']\n"
