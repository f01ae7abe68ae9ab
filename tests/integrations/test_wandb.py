"""Tests the W&B tracker with the real SDK, offline and online with a fake server."""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from nntrain.config.errors import ConfigError
from nntrain.integrations import wandb as module
from nntrain.integrations.tracker import (
    MetricRow,
    ModelFile,
    ProcessInfo,
    Refused,
    RunEnd,
    RunInfo,
    Table,
    Tracker,
)
from nntrain.integrations.wandb import WandbTracker, session
from nntrain.integrations.wandb import settings as run_settings
from nntrain.integrations.wandb.names import artifact_name, nested, summary
from nntrain.result import StopReason
from tests.common.wandb_server import WandbServer, wandb_server
from tests.common.wandb_store import WandbRun, read_offline

pytestmark = pytest.mark.slow

UID = "0123456789abcdef"
DONE = RunEnd(StopReason.COMPLETED)
SETTINGS = (
    *(
        "API_KEY",
        "BASE_URL",
        "DIR",
        "ENTITY",
        "JOB_TYPE",
        "MODE",
        "NAME",
        "NOTES",
        "PROJECT",
        "RUN_GROUP",
        "SERVICE",
    ),
    *("SILENT", "TAGS"),
)


@pytest.fixture(scope="module", autouse=True)
def _no_service_left() -> Iterator[None]:
    yield
    import wandb

    if session.SESSIONS:  # after a failed test, the W&B process would retry the upload forever
        for child in psutil.Process().children():
            child.kill()
    with suppress(ConnectionError):
        wandb.teardown()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(session, "FINISH_TIMEOUT_S", 2.0)
    monkeypatch.setattr(run_settings, "INIT_TIMEOUT_S", 3.0)
    with wandb_server() as server:
        yield server


def offline(**settings: object) -> WandbTracker:
    return WandbTracker(mode="offline", **settings)  # type: ignore[arg-type]


def info(uid: str = UID, **values: object) -> RunInfo:
    return replace(RunInfo(uid=uid, time_ms=1_000), **values)  # type: ignore[arg-type]


def loss_rows(start: int, end: int) -> list[MetricRow]:
    return [MetricRow(1_000 + i, i, {"batch/loss": i / 7}) for i in range(start, end)]


def finished(run: RunInfo, *rows: MetricRow, uid: str = UID, **settings: object) -> WandbRun:
    """Tracks rows offline and returns the run that is read back from its file."""
    client = offline(**settings).connect()
    client.start(run)
    client.metrics(rows)
    client.finish(DONE)
    return read_offline(Path(), uid)


# --- settings


def test_it_is_a_tracker() -> None:
    assert isinstance(offline(), Tracker)


def test_the_settings_import_neither_wandb_nor_numpy_nor_torch() -> None:
    code = (
        "import sys; from nntrain.integrations.wandb import WandbTracker; "
        "WandbTracker().resolved(); "
        "print([name for name in ('wandb', 'numpy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_wandb_the_error_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'nntrain\[wandb\]'"):
        WandbTracker()


def test_an_unknown_mode_is_an_error_that_lists_the_modes() -> None:
    with pytest.raises(ValueError, match=r"mode='offlin' .* one of online, offline, disabled\.$"):
        WandbTracker(mode="offlin")


def test_resolved_fills_in_the_defaults_and_the_absolute_folder(tmp_path: Path) -> None:
    resolved = WandbTracker(dir="here").resolved()
    assert (resolved.project, resolved.mode, resolved.dir) == (
        "nntrain",
        "online",
        str(tmp_path / "here"),
    )
    assert resolved.resolved() == resolved


@pytest.mark.parametrize(
    ("variable", "field", "value"),
    [
        ("WANDB_PROJECT", "project", "p"),
        ("WANDB_ENTITY", "entity", "team"),
        ("WANDB_RUN_GROUP", "group", "g"),
        ("WANDB_JOB_TYPE", "job_type", "train"),
        ("WANDB_NAME", "run_name", "n"),
        ("WANDB_NOTES", "notes", "text"),
        ("WANDB_MODE", "mode", "offline"),
        ("WANDB_DIR", "dir", "/somewhere"),
        ("WANDB_BASE_URL", "base_url", "http://host"),
    ],
)
def test_resolved_uses_the_environment_for_settings_that_are_not_given(
    monkeypatch: pytest.MonkeyPatch, variable: str, field: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(WandbTracker().resolved(), field) == value
    mine = {"mode": "disabled", "project": "mine", "base_url": "http://mine"}.get(field, "/mine")
    assert getattr(WandbTracker(**{field: mine}).resolved(), field) == mine


def test_resolved_uses_the_tags_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    assert WandbTracker().resolved().tags == ("a", "b")
    assert WandbTracker(tags=["c"]).resolved().tags == ("c",)


def test_the_settings_never_contain_the_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert "a" * 40 not in repr(WandbTracker().resolved())


def test_the_config_has_every_setting_with_its_default() -> None:
    node = yaml.safe_load(
        (Path(module.__file__).parents[2] / "conf/tracker/wandb.yaml").read_text()
    )["wandb"]
    assert node.pop("_target_") == "nntrain.integrations.wandb.WandbTracker"
    assert list(node) == [setting.name for setting in fields(WandbTracker)]
    assert WandbTracker(**node) == WandbTracker()


REFUSED_SETTINGS = [
    ("project", "WANDB_PROJECT", "a/b"),
    ("project", "WANDB_PROJECT", "x" * 129),
    ("tags", "WANDB_TAGS", "x" * 65),
    ("tags", "WANDB_TAGS", "a,,b"),
    ("base_url", "WANDB_BASE_URL", "here"),
    ("base_url", "WANDB_BASE_URL", "http://here:abc"),
    ("base_url", "WANDB_BASE_URL", "http://[::1"),
]


@pytest.mark.parametrize(("field", "variable", "value"), REFUSED_SETTINGS)
def test_a_setting_that_wandb_does_not_accept_is_one_sentence_before_training(
    monkeypatch: pytest.MonkeyPatch, field: str, variable: str, value: str
) -> None:
    given = value.split(",") if field == "tags" else value
    with pytest.raises(ConfigError, match=variable) as of_config:
        WandbTracker(mode="offline", **{field: given})
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as of_environment:
        WandbTracker(mode="offline")
    assert str(of_environment.value) == str(of_config.value)
    assert "\n" not in str(of_config.value)
    assert WandbTracker(mode="disabled").resolved().mode == "disabled"


def test_settings_that_only_wandb_can_check_are_refused() -> None:
    with pytest.raises(Refused, match="did you mean"):
        offline(base_url="https://wandb.ai").connect().start(info())


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_INIT_TIMEOUT", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
    client = offline().connect()
    assert client.start(info()).run_id == UID
    client.finish(DONE)
    assert "" not in {os.environ.get(name) for name in ("WANDB_MODE", "WANDB_INIT_TIMEOUT")}


# --- names and values


@pytest.mark.parametrize(
    ("key", "best"),
    [
        ("batch/loss", "min"),
        ("batch/loss_smooth", "min"),
        ("valid/hamming_loss", "min"),
        ("valid/error_rate", "min"),
        ("valid/rmse", "min"),
        ("valid/accuracy", "max"),
        ("valid/MulticlassAccuracy", "max"),
        ("valid/f1_score", "max"),
        ("valid/BinaryAUROC", "max"),
        ("valid/r2", "max"),
        ("lr/0", None),
        ("act/backbone.conv/mean", None),
        ("time/epoch_s", None),
        ("grad/acceleration/norm", None),
    ],
)
def test_the_summary_of_a_metric_is_its_best_value_if_the_direction_is_known(
    key: str, best: str | None
) -> None:
    assert summary(key) == best


def test_dotted_params_become_nested() -> None:
    params = {"lr": 0.1, "model.hidden": 3, "model.act.name": None, "list": [1, 2]}
    assert nested(params) == {
        "lr": 0.1,
        "model": {"hidden": 3, "act": {"name": None}},
        "list": [1, 2],
    }


@pytest.mark.parametrize("params", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a.b": 1, "a.b.c": 2}])
def test_params_that_cannot_be_nested_stay_flat(params: dict[str, int]) -> None:
    assert nested(params) == params


def test_artifact_names_are_valid_for_wandb() -> None:
    assert artifact_name("1", "reports/é a.csv") == "run-1-reports___a.csv"
    long = artifact_name("1", "x" * 200)
    assert len(long) == 128
    assert long != artifact_name("1", "x" * 201)


# --- offline


def test_rows_keep_their_order_values_times_and_steps() -> None:
    values = [0.5, math.nan, math.inf, -math.inf, 2.0**70, 1 / 3]
    rows = [
        MetricRow(1_700_000_000_000 + 250 * i, 10 * i, {"act/a.b/mean": v, "lr/0": 1})
        for i, v in enumerate(values)
    ]
    run = finished(info(), *rows)
    assert [str(row["act/a.b/mean"]) for row in run.history] == [
        str(float(value)) for value in values
    ]
    assert [row["train_iter"] for row in run.history] == [0, 10, 20, 30, 40, 50]
    assert [row["_step"] for row in run.history] == [0, 1, 2, 3, 4, 5]
    assert [row["_timestamp"] for row in run.history] == [
        1_700_000_000 + 0.25 * i for i in range(6)
    ]


def test_rows_whose_steps_repeat_or_decrease_are_all_kept() -> None:
    run = finished(
        info(), *(MetricRow(1_000, step, {"x": float(i)}) for i, step in enumerate([5, 5, 3, 0, 9]))
    )
    assert run.series("x") == [(5, 0.0), (5, 1.0), (3, 2.0), (0, 3.0), (9, 4.0)]


def test_every_series_is_plotted_against_the_step() -> None:
    run = finished(
        info(),
        MetricRow(1, 1, {"valid/top.5.acc": 0.25, "lr/0": 1.0}),
        MetricRow(1, 2, {"valid/top.5.acc": 0.125}),
    )
    assert (
        run.metrics["*"].step_metric
        == run.metrics[r"valid/top\.5\.acc"].step_metric
        == "train_iter"
    )
    assert run.summary["valid/top.5.acc"] == {"max": 0.25}
    assert run.summary["lr/0"] == 1.0


def test_settings_params_tags_and_texts_are_stored() -> None:
    params = {f"group.key_{i}": i for i in range(250)} | {
        "long": "x" * 7000,
        "list": [1, 2],
        "none": None,
    }
    tags = {"team": "é", "nntrain.git.dirty": "true"}
    run = finished(
        info(params=params, tags=tags, texts={"config.yaml": "lr: 1\n"}),
        **{"project": "p", "entity": "e", "group": "g", "job_type": "train", "run_name": "n"},
        **{"tags": ["a", "b"], "notes": "text"},
    )
    record = run.run
    assert (record.project, record.entity, record.run_group, record.job_type) == (
        "p",
        "e",
        "g",
        "train",
    )
    assert (record.run_id, record.display_name, record.notes) == (UID, "n", "text")
    assert run.params == params
    assert run.tags == {"team": "é", "nntrain.git.dirty": "true", "nntrain.outcome": "completed"}
    assert set(record.tags) == {"a", "b", "completed"}
    assert (run.folder / "files/nntrain/config.yaml").read_text() == "lr: 1\n"
    assert "nntrain/config.yaml" in run.files


def test_run_name_replaces_the_name_of_the_run() -> None:
    assert finished(info(name="mine")).run.display_name == "mine"
    assert finished(info(uid="2", name="mine"), uid="2", run_name="set").run.display_name == "set"


def test_the_command_that_uploads_the_folder_is_shown() -> None:
    client = offline().connect()
    started = client.start(info())
    folder = started.where.rpartition("wandb sync ")[2]
    assert started.run_id == UID
    assert started.rows == 0
    assert (Path(folder) / f"run-{UID}.wandb").parent.is_dir()
    client.finish(DONE)


@pytest.mark.parametrize(
    ("reason", "signum", "code"),
    [
        ("completed", None, 0),
        ("early_stopped", None, 0),
        ("budget", None, 0),
        ("pruned", None, 0),
        ("diverged", None, 1),
        ("interrupted", 2, 130),
        ("interrupted", 15, 143),
        ("error", None, 1),
        ("out_of_memory", None, 1),
    ],
)
def test_the_exit_code_and_the_tag_follow_the_outcome_table(
    reason: str, signum: int | None, code: int
) -> None:
    client = offline(tags=["mine"]).connect()
    client.start(info(tags={"nntrain.outcome": "interrupted"}))
    client.finish(RunEnd(StopReason(reason), signum=signum))
    run = read_offline(Path(), UID)
    assert run.exit_code == code
    assert run.tags["nntrain.outcome"] == reason
    assert set(run.run.tags) == {"mine", reason}


def test_histograms_are_stored_in_wandbs_format() -> None:
    client = offline().connect()
    client.start(info())
    client.histograms(MetricRow(2_000, 7, {}), [0.0, 0.5, 1.0], {"act/a": [3, 4], "act/b": [0, 1]})
    client.finish(DONE)
    (row,) = read_offline(Path(), UID).history
    assert (row["act/a._type"], row["act/a.values"], row["act/a.bins"]) == (
        "histogram",
        [3, 4],
        [0, 0.5, 1],
    )
    assert row["act/b.values"] == [0, 1]
    assert (row["train_iter"], row["_timestamp"]) == (7, 2)


def test_figures_are_images_named_without_their_extension() -> None:
    Image.new("RGB", (4, 2)).save("loss.png")
    client = offline().connect()
    client.start(info())
    client.figure(Path("loss.png"), "plots/loss.png", 9)
    client.finish(DONE)
    run = read_offline(Path(), UID)
    assert (run.history[0]["plots/loss._type"], run.history[0]["train_iter"]) == ("image-file", 9)
    assert (run.folder / "files" / run.history[0]["plots/loss.path"]).read_bytes() == Path(
        "loss.png"
    ).read_bytes()


def test_tables_keep_their_rows() -> None:
    client = offline().connect()
    client.start(info())
    client.table(Table("confusion", ["name", "n"], [["a", 1], [None, "many"], ["c", 2.5]]), 3)
    client.finish(DONE)
    run = read_offline(Path(), UID)
    table = json.loads((run.folder / "files" / run.history[0]["confusion.path"]).read_text())
    assert table == {"columns": ["name", "n"], "data": [["a", 1], [None, "many"], ["c", 2.5]]}


def test_files_and_models_are_artifacts_with_aliases() -> None:
    Path("a.csv").write_text("1,2\n")
    Path("best.pt").write_bytes(b"weights")
    client = offline().connect()
    client.start(info())
    client.artifact(Path("a.csv"), "reports/confusion.csv", ["final"])
    client.model(
        ModelFile(
            Path("best.pt"), "best.pt", ["best", "latest"], {"_target_": "m", "n": 3}, ["mine"]
        )
    )
    client.finish(DONE)
    file, model = read_offline(Path(), UID).artifacts
    assert (file.type, file.name, set(file.aliases)) == (
        "file",
        f"run-{UID}-reports_confusion.csv",
        {"final", "latest"},
    )
    assert [
        (entry.path, Path(entry.local_path).read_text()) for entry in file.manifest.contents
    ] == [("reports/confusion.csv", "1,2\n")]
    assert (model.type, set(model.aliases)) == ("model", {"best", "latest"})
    assert json.loads(model.metadata) == {
        "node": {"_target_": "m", "n": 3},
        "trusted_targets": ["mine"],
    }


def test_the_console_log_is_stored_once_as_wandbs_own_console() -> None:
    lines = [f"line {i} é\n" for i in range(2_500)]
    Path("console.log").write_text("".join(lines[:1_200]), encoding="utf-8")
    client = offline().connect()
    client.start(info())
    client.artifact(Path("console.log"), "console.log")
    Path("console.log").write_text("".join(lines), encoding="utf-8")
    client.artifact(Path("console.log"), "console.log")
    client.finish(DONE)
    run = read_offline(Path(), UID)
    assert run.console == "".join(lines)
    assert run.artifacts == []


def test_records_that_wandb_never_accepts_are_refused_and_still_count_as_rows() -> None:
    Path("bad.png").write_text("no image")
    client = offline().connect()
    client.start(info())
    client.metrics(loss_rows(0, 2))
    for name in ("plots/loss.png", "../loss.png"):
        with pytest.raises(Refused):
            client.figure(Path("bad.png"), name, 1)
    with pytest.raises(Refused):
        client.table(Table("t", ["a"], [[1, 2]]), 1)
    with pytest.raises(Refused):
        client.histograms(MetricRow(1, 1, {}), [0.0, 1.0], {"act/a": [1, 2, 3]})
    with pytest.raises(Refused):
        client.artifact(Path("gone.csv"), "gone.csv")
    with pytest.raises(Refused):
        client.artifact(Path("bad.png"), "bad.png", ["no/alias"])
    client.metrics(loss_rows(2, 3))
    assert client.start(info()).rows == 7
    client.finish(DONE)
    assert [row["_step"] for row in read_offline(Path(), UID).history] == [0, 1, 6]


def test_a_text_whose_name_is_outside_the_run_is_refused() -> None:
    client = offline().connect()
    with pytest.raises(Refused):
        client.start(info(texts={"../../secret": "x"}))
    client.finish(DONE)


def test_a_run_that_starts_twice_is_one_run_and_reports_its_number_of_rows() -> None:
    first, second = offline().connect(), offline().connect()
    assert first.start(info(params={"a": 1})).rows == 0
    first.metrics(loss_rows(0, 5))
    started = second.start(info(params={"a": 2}))
    assert (started.run_id, started.rows) == (UID, 5)
    second.metrics(loss_rows(5, 8))
    second.finish(DONE)
    run = read_offline(Path(), UID)
    assert run.series("batch/loss") == [(i, i / 7) for i in range(8)]
    assert run.params == {"a": 2}


def test_a_run_that_starts_after_its_end_is_written_again_and_other_runs_are_kept() -> None:
    others = [
        Path(f"wandb/offline-run-20240101_000000-{name}")
        for name in (f"{UID}0", f"x{UID}", f"{UID}-1")
    ]
    for other in others:
        other.mkdir(parents=True)
    (others[2] / f"run-{UID}-1.wandb").touch()
    finished(info(), *loss_rows(0, 5))
    client = offline().connect()
    assert client.start(info()).rows == 0
    client.metrics(loss_rows(0, 7))
    client.finish(DONE)
    (_mine,) = set(Path("wandb").glob("offline-run-*")) - set(others)
    assert all(other.is_dir() for other in others)
    for other in others:
        shutil.rmtree(other)
    assert read_offline(Path(), UID).series("batch/loss") == [(i, i / 7) for i in range(7)]


def test_simultaneous_runs_do_not_mix() -> None:
    clients = {str(i) * 16: offline().connect() for i in range(1, 4)}

    def track(uid: str) -> None:
        clients[uid].start(info(uid))
        for i in range(20):
            clients[uid].metrics([MetricRow(1_000, i, {f"from_{uid}": float(i)})])
        clients[uid].finish(DONE)

    threads = [threading.Thread(target=track, args=(uid,)) for uid in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for uid in clients:
        run = read_offline(Path(), uid)
        assert run.series(f"from_{uid}") == [(i, float(i)) for i in range(20)]
        assert run.exit_code == 0


def test_a_client_can_track_one_run_after_another() -> None:
    client = offline().connect()
    for uid in ("1" * 16, "2" * 16):
        client.start(info(uid))
        client.metrics(loss_rows(0, 3))
        client.finish(DONE)
    assert (
        len(read_offline(Path(), "1" * 16).history)
        == len(read_offline(Path(), "2" * 16).history)
        == 3
    )


def test_a_disabled_tracker_stores_nothing(tmp_path: Path) -> None:
    Path("a.png").write_bytes(b"x")
    client = WandbTracker(mode="disabled").connect()
    assert "not recorded" in client.start(info(texts={"a.txt": "x"})).where
    client.metrics(loss_rows(0, 3))
    client.histograms(MetricRow(1, 1, {}), [0.0, 1.0], {"a": [1]})
    client.artifact(Path("a.png"), "a.png")
    client.set_tags({"a": "b"})
    client.finish(DONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_nothing_is_printed_and_all_files_are_in_the_folder(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    client = offline(dir="here").connect()
    client.start(info(process=ProcessInfo(cwd="/nowhere"), texts={"a.txt": "x"}))
    client.metrics(loss_rows(0, 3))
    client.finish(DONE)
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "home"}


# --- the training process


def test_program_arguments_executable_host_and_git_describe_the_training_process(
    tmp_path: Path,
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/train.py").touch()
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    process = ProcessInfo(
        pid=os.getpid(),
        host=platform.node(),
        cwd=str(tmp_path / "sub"),
        program="train.py",
        args=("lr=1", "a b"),
        executable="/py",
    )
    argv = list(sys.argv)
    run = finished(info(process=process))
    found = run.environment
    assert (found.program, list(found.args), found.executable) == (
        "train.py",
        ["lr=1", "a b"],
        "/py",
    )
    assert (found.host, found.code_path, found.git.commit) == (platform.node(), "train.py", commit)
    assert "requirements.txt" in run.files
    assert sys.argv == argv


def test_for_training_on_another_machine_hardware_and_packages_are_not_recorded() -> None:
    run = finished(info(process=ProcessInfo(pid=os.getpid(), host="elsewhere")))
    assert run.run.host == "elsewhere"
    assert run.environment.cpu_count == 0
    assert "requirements.txt" not in run.files
    assert run.stats == []


def busy_process() -> subprocess.Popen[bytes]:
    """Starts a process that uses 200 MiB of memory."""
    code = "import time; held = bytearray(b'x') * (200 << 20); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def track_process(pid: int, time_ms: int) -> WandbRun:
    client = offline().connect()
    client.start(info(time_ms=time_ms, process=ProcessInfo(pid=pid, host=platform.node())))
    time.sleep(0.5)
    client.finish(DONE)
    return read_offline(Path(), UID)


def test_memory_is_measured_for_the_training_process_only_while_it_runs() -> None:
    with busy_process() as process:
        now = time.time_ns() // 1_000_000
        assert 200 < track_process(process.pid, now).stats[0]["proc.memory.rssMB"] < 300
        # a run that started a minute ago cannot belong to this process
        assert track_process(process.pid, now - 60_000).stats == []
        process.kill()
    assert track_process(process.pid, now).stats == []


# --- faults


def shipping(code: str) -> subprocess.Popen[str]:
    """Starts and returns a process that runs `code` with the client of an offline run."""
    head = (
        "import os, sys, time, psutil\nfrom nntrain.integrations.wandb import WandbTracker\n"
        "from nntrain.integrations.tracker import *\nfrom nntrain.result import StopReason\n"
        f"run, client = RunInfo(uid={UID!r}), WandbTracker(mode='offline').connect()\n"
        "rows = [MetricRow(1000 + i, i, {'batch/loss': i / 7}) for i in range(100)]\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + code], stdout=subprocess.PIPE, text=True)


def test_a_killed_shipper_leaves_no_process_and_the_next_one_completes_the_run() -> None:
    code = """
client.start(run); client.metrics(rows[:50])
print(*[p.pid for p in psutil.Process().children(True)], flush=True)
time.sleep(60)
"""
    with shipping(code) as shipper:
        assert shipper.stdout is not None
        children = [psutil.Process(int(pid)) for pid in shipper.stdout.readline().split()]
        shipper.kill()
    assert any("wandb-core" in child.name() for child in children if child.is_running())
    _gone, left = psutil.wait_procs(children, timeout=10)
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]
    run = finished(info(), *loss_rows(0, 100))
    assert run.series("batch/loss") == [(i, i / 7) for i in range(100)]


def test_after_wandb_core_was_killed_a_new_start_completes_the_run() -> None:
    code = """
client.start(run); client.metrics(rows[:50])
[core] = [p for p in psutil.Process().children() if "core" in p.name()]
core.kill(); core.wait(5)
for _ in range(2):
    try:
        client.metrics(rows[50:]); print("no error")
    except ConnectionError:
        pass
print(client.start(run).rows)
client.metrics(rows); client.finish(RunEnd(StopReason.COMPLETED))
os._exit(0)
"""
    with shipping(code) as shipper:
        assert shipper.stdout is not None
        assert shipper.stdout.read() == "0\n"
    run = read_offline(Path(), UID)
    assert run.series("batch/loss") == [(i, i / 7) for i in range(100)]
    assert run.exit_code == 0


def test_a_warning_by_wandb_does_not_delay_the_end_of_an_offline_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import wandb

    client = offline().connect()
    client.start(info())
    client.metrics(loss_rows(0, 3))
    wandb.termwarn("take care")
    client.finish(DONE)
    assert "take care" in caplog.text


# --- online


def online(server: WandbServer) -> WandbTracker:
    return WandbTracker(mode="online", base_url=server.url, tags=["mine"])


def steps(server: WandbServer) -> list[int]:
    return [server.rows[place]["_step"] for place in sorted(server.rows)]


def test_online_the_server_gets_the_complete_run(
    server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("console.log").write_text("hello\nworld\n")
    client = online(server).connect()
    started = client.start(info(params={"model.n": 3}, texts={"config.yaml": "x"}))
    assert started.rows == 0
    assert f"{server.url}/team/nntrain/runs/{UID}" in started.where
    client.metrics(loss_rows(0, 100))
    client.artifact(Path("console.log"), "console.log")
    client.finish(RunEnd(StopReason.INTERRUPTED, signum=15))
    assert [row["batch/loss"] for row in server.rows.values()] == [i / 7 for i in range(100)]
    assert steps(server) == list(range(100))
    assert (server.exit_code, server.console) == (143, ["hello", "world"])
    assert server.config["model"]["value"] == {"n": 3}
    assert set(server.tags) == {"mine", "interrupted"}
    assert {"nntrain/config.yaml", "requirements.txt", "wandb-metadata.json"} <= server.files
    assert capfd.readouterr() == ("", "")


def test_online_a_resumed_run_reports_the_rows_of_the_server_and_continues_after_them(
    server: WandbServer,
) -> None:
    for rows in (loss_rows(0, 60), loss_rows(60, 100)):
        client = online(server).connect()
        assert client.start(info()).rows == rows[0].step
        client.metrics(rows)
        client.finish(DONE)
    assert steps(server) == list(range(100))
    assert [row["train_iter"] for row in server.rows.values()] == list(range(100))


@pytest.mark.parametrize("status", [401, 404])
def test_online_a_run_whose_upload_failed_can_be_sent_again(
    server: WandbServer, status: int
) -> None:
    client = online(server).connect()
    client.start(info())
    server.status = status
    client.metrics(loss_rows(0, 10))
    with pytest.raises(ConnectionError, match="may be incomplete in W&B"):
        client.finish(DONE)
    server.status = 200
    rows = client.start(info()).rows
    assert rows == 0
    client.metrics(loss_rows(rows, 10))
    client.finish(DONE)
    assert steps(server) == list(range(10))
    assert client.start(info()).rows == 10
    client.finish(DONE)


def test_online_finish_respects_its_timeout_and_can_be_called_again(
    server: WandbServer,
) -> None:
    client = online(server).connect()
    client.start(info())
    server.status = 500
    client.metrics(loss_rows(0, 10))
    for call in (lambda: client.finish(DONE), lambda: client.start(info())):
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="has not finished uploading"):
            call()
        assert time.monotonic() - began < 4
    server.status = 200
    deadline = time.monotonic() + 60
    while server.exit_code is None and time.monotonic() < deadline:
        time.sleep(0.2)
    client.finish(DONE)
    assert steps(server) == list(range(10))


def test_online_a_run_whose_upload_timed_out_can_be_sent_again(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_settings, "UPLOAD_TIMEOUT_S", 1.0)
    monkeypatch.setattr(session, "FINISH_TIMEOUT_S", 15.0)
    client = online(server).connect()
    client.start(info())
    server.status = 500
    client.metrics(loss_rows(0, 10))
    with pytest.raises(TimeoutError, match="Timed out finishing run"):
        client.finish(DONE)
    server.status = 200
    assert client.start(info()).rows == 0
    client.metrics(loss_rows(0, 10))
    client.finish(DONE)
    assert steps(server) == list(range(10))


def test_online_a_refused_artifact_is_an_error_and_the_run_still_ends(server: WandbServer) -> None:
    Path("a.csv").write_text("1\n")
    client = online(server).connect()
    client.start(info())
    client.artifact(Path("a.csv"), "a.csv")
    with pytest.raises(ValueError, match="no such query"):
        client.finish(DONE)
    assert server.exit_code == 0


def test_online_an_unavailable_server_is_an_error_within_the_timeout_and_is_used_once_it_is_back(
    server: WandbServer,
) -> None:
    import wandb

    server.hangs = True
    gone = WandbTracker(mode="online", base_url="http://127.0.0.1:9")
    for tracker in (online(server), gone, online(server)):
        client = tracker.connect()
        began = time.monotonic()
        with pytest.raises(wandb.errors.CommError):
            client.start(info())
        assert time.monotonic() - began < run_settings.INIT_TIMEOUT_S + session.CLOSE_TIMEOUT_S + 1
    server.hangs = False
    client = online(server).connect()
    client.start(info())
    client.metrics(loss_rows(0, 3))
    client.finish(DONE)
    assert steps(server) == [0, 1, 2]


def test_online_a_missing_key_is_an_error_instead_of_a_prompt(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    wandb.teardown()  # forget the login of earlier tests
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    began = time.monotonic()
    with pytest.raises(PermissionError, match=r"no API key .* 'wandb login'"):
        WandbTracker(mode="online", base_url="http://localhost:9").connect().start(info())
    assert time.monotonic() - began < 2


def test_wandb_sync_uploads_the_offline_folder(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("console.log").write_text("hello\n")
    client = offline().connect()
    client.start(info())
    client.metrics(loss_rows(0, 50))
    client.artifact(Path("console.log"), "console.log")
    client.finish(RunEnd(StopReason.PRUNED))
    folder = read_offline(Path(), UID).folder
    environ = {**os.environ, "WANDB_BASE_URL": server.url}
    environ.pop("WANDB_SERVICE", None)
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(folder)],
        env=environ,
        check=True,
        capture_output=True,
    )
    assert [row["batch/loss"] for row in server.rows.values()] == [i / 7 for i in range(50)]
    assert (server.exit_code, server.console) == (0, ["hello"])
    assert "pruned" in server.tags
