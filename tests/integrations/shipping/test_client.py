"""The shipper as a real process that is started and killed, with MLflow on SQLite."""

import importlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.entities import Run

import nntrain
from nntrain.app import sync
from nntrain.callbacks import Checkpoint
from nntrain.integrations.callback import TrackerCallback
from nntrain.integrations.capture.niceness import NICENESS
from nntrain.integrations.journal.records import JOURNAL, Record, lines, read_journal
from nntrain.integrations.journal.writer import JournalWriter
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.shipping.client import InProcess, Shipment, ShipperProcess, tell_backlog
from nntrain.integrations.shipping.lock import delivery_lock
from nntrain.integrations.shipping.shipper import LOG
from nntrain.integrations.shipping.state import read_state
from tests.common.journals import END, START, append, batches, losses, start
from tests.common.mlflow_store import only_run
from tests.common.runs import InterruptAt
from tests.common.servers import Fault, FaultyServer, free_port, wait_until
from tests.common.toys import toy_learner

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def shippers(pid: int) -> list[psutil.Process]:
    """Returns the running shippers of a training process, found by their command lines."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        is_one = len(words) > 3 and words[-4].endswith("shipper_main.py") and words[-1] == str(pid)
        if is_one and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.fixture(autouse=True)
def _no_orphans() -> Iterator[None]:
    yield
    assert shippers(os.getpid()) == []
    assert [
        child
        for child in psutil.Process().children()
        if "shipper_main" in " ".join(child.cmdline())
    ] == []


@pytest.fixture
def tracker(store_uri: str) -> MLflowTracker:
    return MLflowTracker(store_uri, system_metrics=False).resolved()


@pytest.fixture
def shipper() -> Iterator[ShipperProcess]:
    made = ShipperProcess()
    yield made
    made.finish(0)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[JournalWriter]:
    with JournalWriter(tmp_path / "run" / JOURNAL) as made:
        yield made


def write(writer: JournalWriter, *records: Record) -> None:
    writer.write(*records)
    assert writer.wait(10)


def series(folder: Path, key: str = "batch/loss") -> list[tuple[int, float]]:
    client, run = only_run(folder)
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def the_run(folder: Path) -> Run:
    return only_run(folder)[1]


def n_delivered(journal: Path, name: str = "mlflow") -> int:
    return read_state(journal, name).line


def check_until(shipper: ShipperProcess, is_so: Callable[[], bool], what: str) -> None:
    """Checks the shipper repeatedly, as training does, until a condition is true."""

    def checked() -> bool:
        shipper.check()
        return is_so()

    wait_until(checked, what, 30)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_growing_journal_is_delivered_without_torch_and_without_output(
    tmp_path: Path,
    tracker: MLflowTracker,
    shipper: ShipperProcess,
    writer: JournalWriter,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shipper.start({"mlflow": tracker})
    write(writer, START, *batches(1, 8))
    shipper.add(Shipment(writer.path, {"mlflow": tracker}))
    wait_until(lambda: n_delivered(writer.path) == 3, "the first rows", 30)
    assert series(tmp_path) == losses(1, 8)
    assert the_run(tmp_path).info.status == "RUNNING"
    (process,) = shippers(os.getpid())
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "sqlite" in maps
    assert os.getpgid(process.pid) == process.pid
    assert os.getsid(process.pid) == os.getsid(0)
    assert process.nice() == os.nice(0) + NICENESS
    assert os.readlink(f"/proc/{process.pid}/fd/0") == os.devnull
    write(writer, *batches(9, 400), END)
    assert shipper.finish() == []
    assert not process.is_running()
    assert series(tmp_path) == losses(1, 400)
    assert the_run(tmp_path).info.status == "FINISHED"
    assert capfd.readouterr() == ("", "")
    assert "delivering" in (tmp_path / "run" / LOG).read_text()


def test_a_second_fit_continues_the_same_run(
    tmp_path: Path,
    tracker: MLflowTracker,
    shipper: ShipperProcess,
    writer: JournalWriter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shipment = Shipment(writer.path, {"mlflow": tracker})
    for i in range(3):
        write(writer, START, *batches(4 * i + 1, 4 * i + 4))
        shipper.add(shipment)
        write(writer, END)
        if i == 0:  # the second fit starts long after the first, the third right after the second
            wait_until(
                lambda: read_state(writer.path, "mlflow").done, "the end of the first fit", 30
            )
            time.sleep(0.5)
    assert shipper.finish() == []
    assert series(tmp_path) == losses(1, 12)
    assert the_run(tmp_path).info.status == "FINISHED"
    assert warnings(caplog) == []


def test_a_second_fit_is_delivered_while_another_tracker_lacks_the_first(
    tmp_path: Path, tracker: MLflowTracker, shipper: ShipperProcess, writer: JournalWriter
) -> None:
    dead = MLflowTracker(f"http://127.0.0.1:{free_port()}", system_metrics=False)
    shipment = Shipment(writer.path, {"dead": dead, "mlflow": tracker})
    write(writer, START, *batches(1, 4), END)
    shipper.add(shipment)
    wait_until(lambda: read_state(writer.path, "mlflow").done, "the end of the first fit", 30)
    time.sleep(0.5)
    write(writer, START, *batches(5, 8), END)
    shipper.add(shipment)
    wait_until(lambda: n_delivered(writer.path) == 6, "the end of the second fit", 30)
    assert series(tmp_path) == losses(1, 8)


def test_after_delivery_other_processes_may_deliver_the_journal(
    tracker: MLflowTracker, shipper: ShipperProcess, writer: JournalWriter
) -> None:
    write(writer, START, *batches(1, 4), END)
    shipper.add(Shipment(writer.path, {"mlflow": tracker}))
    wait_until(lambda: read_state(writer.path, "mlflow").done, "all is delivered", 30)
    with delivery_lock(writer.path, 5.0):
        assert len(shippers(os.getpid())) == 1


def test_the_shipper_waits_for_a_journal_that_another_process_delivers_and_delivers_others(
    tmp_path: Path, tracker: MLflowTracker, shipper: ShipperProcess, writer: JournalWriter
) -> None:
    other = append(tmp_path / "other", [start(tracker, uid="other"), *batches(1, 4), END])
    write(writer, START, *batches(1, 4), END)
    with delivery_lock(writer.path):
        shipper.add(Shipment(writer.path, {"mlflow": tracker}))
        shipper.add(Shipment(other, {"mlflow": tracker}))
        wait_until(lambda: read_state(other, "mlflow").done, "the other journal", 30)
        assert n_delivered(writer.path) == 0
    assert shipper.finish() == []
    assert read_state(writer.path, "mlflow").done


def test_a_shipper_that_cannot_be_started_costs_one_warning_and_is_tried_again(
    tracker: MLflowTracker,
    shipper: ShipperProcess,
    writer: JournalWriter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    n_open = psutil.Process().num_fds()
    with monkeypatch.context() as machine:
        machine.setattr(sys, "executable", "/no/room/for/python")
        shipper.start({"mlflow": tracker})
        shipper.add(Shipment(writer.path, {"mlflow": tracker}))
        write(writer, START, *batches(1, 4), END)
        (missing,) = shipper.finish()
    assert (missing.journal, missing.n_row) == (writer.path, 4)
    (warning,) = [record.message for record in caplog.records if record.name == "nntrain"]
    assert warning.startswith("the shipper cannot be started ([Errno 2]")
    assert psutil.Process().num_fds() == n_open
    shipper.ended(Shipment(writer.path, {"mlflow": tracker}))
    assert shipper.finish(60) == []


def test_a_log_that_cannot_be_written_does_not_stop_delivery(
    tracker: MLflowTracker, shipper: ShipperProcess, writer: JournalWriter
) -> None:
    (writer.path.parent / "shipper.log").mkdir()
    write(writer, START, *batches(1, 4), END)
    shipper.add(Shipment(writer.path, {"mlflow": tracker}))
    assert shipper.finish(60) == []


def test_a_killed_shipper_is_replaced_once(
    tmp_path: Path,
    tracker: MLflowTracker,
    shipper: ShipperProcess,
    writer: JournalWriter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(writer, start(tracker), *batches(1, 400))
    shipper.add(Shipment(writer.path, {"mlflow": tracker}))
    wait_until(lambda: n_delivered(writer.path) > 1, "the first rows", 30)
    (first,) = shippers(os.getpid())
    first.kill()
    write(writer, *batches(401, 800))
    check_until(shipper, lambda: n_delivered(writer.path) == 201, "all rows")
    (message,) = warnings(caplog)
    assert message == "the shipper died (exit code -9): restarting it."
    (second,) = shippers(os.getpid())
    second.kill()
    second.wait(10)
    write(writer, *batches(801, 804))
    for _ in range(5):
        time.sleep(0.3)
        shipper.check()
    assert shippers(os.getpid()) == []
    write(writer, END)
    writer.close()
    (missing,) = shipper.finish()
    first, second = warnings(caplog)
    assert "restarting it" in first
    assert "the shipper died again" in second
    assert str(missing) == f"mlflow has not received 4 metric rows of {writer.path}"
    assert missing.remedy == f"python -m nntrain.sync {writer.path.parent}"
    assert read_journal(writer.path).metrics["batch/loss"].step.tolist() == list(range(1, 805))
    assert sync.main([str(writer.path.parent)]) == 0
    assert series(tmp_path) == losses(1, 804)
    assert the_run(tmp_path).info.status == "FINISHED"


TRAINING = """
import os, sys, time
from pathlib import Path
from nntrain.integrations.shipping.client import Shipment, ShipperProcess
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.journal.writer import JournalWriter
from tests.common.journals import START, batches

tracker = MLflowTracker(system_metrics=False).resolved()
shipper = ShipperProcess()
shipper.start({"mlflow": tracker})
if sys.argv[1] == "no run":
    os._exit(0)
writer = JournalWriter(Path("run/journal.jsonl").absolute())
if sys.argv[1] != "no start":
    writer.write(START)
writer.wait()
shipper.add(Shipment(writer.path, {"mlflow": tracker}))
if sys.argv[1] != "no start":
    writer.write(*batches(1, 400))
    writer.wait()
if sys.argv[1] == "worker" and os.fork() == 0:
    time.sleep(4)
    os._exit(0)
print("ready", flush=True)
time.sleep(100)
"""


def start_training(kind: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, kind], stdout=subprocess.PIPE, text=True, env=env
    )


@pytest.mark.parametrize("kind", ["at once", "later", "worker"])
def test_a_run_whose_process_was_killed_is_delivered_and_closed(
    tmp_path: Path, store_uri: str, kind: str
) -> None:
    journal = tmp_path / "run" / JOURNAL
    with start_training(kind) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "ready\n"
        if kind == "later":
            wait_until(lambda: n_delivered(journal) == 101, "the rows", 30)
        training.kill()
        killed_at = time.monotonic()
        wait_until(lambda: shippers(training.pid) == [], "the shipper ends", 30)
    assert time.monotonic() - killed_at < 15
    run = the_run(tmp_path)
    assert run.info.status == "KILLED"
    assert run.info.end_time is not None
    assert run.data.tags["nntrain.outcome"] == "interrupted"
    assert run.data.tags["nntrain.message"].startswith(
        "the process ended unexpectedly after batch 400"
    )
    assert series(tmp_path) == losses(1, 400)
    assert sync.main([str(tmp_path), "--list"]) == 0


FORKING = """
import gc, logging, os, sys, time
from nntrain.integrations.shipping.client import Shipment, shared_shipper
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.journal.writer import JournalWriter
from tests.common.journals import END, START, batches
from pathlib import Path

logging.basicConfig(stream=sys.stdout, format="%(message)s")
tracker = MLflowTracker(system_metrics=False).resolved()
shipper = shared_shipper()
shipper.start({"mlflow": tracker})
child = os.fork()
if child == 0:
    shipper.check()
    time.sleep(1.1)
    shipper.check()
    assert shipper.finish() == []
    if sys.argv[1] == "exit":
        sys.exit(0)
    if sys.argv[1] == "collect":
        del shipper
        shared_shipper.cache_clear()
        gc.collect()
    if sys.argv[1] == "track":
        writer = JournalWriter(Path("child/journal.jsonl").absolute())
        writer.write(START, *batches(1, 4), END)
        writer.close()
        shipper.add(Shipment(writer.path, {"mlflow": tracker}))
        assert shipper.finish() == []
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
writer = JournalWriter(Path("run/journal.jsonl").absolute())
writer.write(START, *batches(1, 4), END)
writer.close()
shipper.add(Shipment(writer.path, {"mlflow": tracker}))
time.sleep(1.1)
shipper.check()
print(shipper.finish(60))
"""


@pytest.mark.parametrize("kind", ["exit", "collect", "track"])
def test_a_forked_process_does_not_disturb_its_parents_shipper(store_uri: str, kind: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-W", "always::ResourceWarning", "-c", FORKING, kind]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert read_state(Path("run") / JOURNAL, "mlflow").done
    assert read_state(Path("child") / JOURNAL, "mlflow").done is (kind == "track")


FORKING_IN_A_BLOCK = """
import logging, os, sys, time
import nntrain
from nntrain.integrations import MLflowTracker
from torch.utils.data import DataLoader

logging.basicConfig(stream=sys.stdout, format="%(message)s")
with nntrain.track(MLflowTracker(system_metrics=False), folder="run") as run:
    run.log_metrics({"loss": 1.0}, 1)
    began = time.monotonic()
    if sys.argv[1] == "DataLoader":
        assert len(list(DataLoader(range(8), num_workers=2))) == 8
    elif (child := os.fork()) == 0:
        run.log_metrics({"loss": 9.0}, 9)
        time.sleep(1.1)
        run.log_metrics({"loss": 9.0}, 9)
        raise SystemExit(0) if sys.argv[1] == "exit" else RuntimeError("in the child")
    else:
        os.waitpid(child, 0)
    assert time.monotonic() - began < 10
    run.log_metrics({"loss": 2.0}, 2)
run.finish(60)
"""


@pytest.mark.parametrize("kind", ["exit", "error", "DataLoader"])
def test_a_forked_process_that_leaves_the_block_does_not_end_its_parents_run(
    store_uri: str, tmp_path: Path, kind: str
) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_EXPERIMENT_NAME": "Default"}
    words = [sys.executable, "-c", FORKING_IN_A_BLOCK, kind]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nntrain:" not in done.stderr
    assert ("in the child" in done.stderr) is (kind == "error")
    journal = tmp_path / "run" / JOURNAL
    assert read_state(journal, "mlflow").done
    records = [line.record for line in lines(journal) if line.record is not None]
    assert [one["reason"] for one in records if one["kind"] == "end"] == ["completed"]
    assert [step for one in records if one["kind"] == "metrics" for step in one["step"]] == [1, 2]


SLOW_STORE = """
import time
from dataclasses import dataclass
from pathlib import Path
from nntrain.core.uninterrupted import uninterrupted
from nntrain.integrations.tracker import Started, Tracker, TrackerClient

@dataclass(frozen=True)
class SlowTracker(Tracker):
    folder: str
    system_metrics: bool = False

    def connect(self):
        return SlowClient(Path(self.folder))

class SlowClient(TrackerClient):
    def __init__(self, folder):
        self.folder = folder

    def start(self, run, run_id=None):
        with uninterrupted():
            (self.folder / "begun").touch()
            time.sleep(2.5)
            (self.folder / "ended").touch()
        time.sleep(60)

    def metrics(self, rows): ...
    def set_tags(self, tags): ...
    def artifact(self, path, name, aliases=()): ...
    def model(self, model): ...
    def finish(self, end): ...
"""


def test_a_shipper_that_changes_the_tables_of_a_database_is_not_killed(
    tmp_path: Path,
    shipper: ShipperProcess,
    writer: JournalWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "slow_store.py").write_text(SLOW_STORE)
    monkeypatch.syspath_prepend(tmp_path)
    slow = importlib.import_module("slow_store").SlowTracker(str(tmp_path))
    write(writer, START, *batches(1, 4), END)
    shipper.add(Shipment(writer.path, {"slow": slow}, ["slow_store"]))
    wait_until((tmp_path / "begun").exists, "the step", 30)
    began = time.monotonic()
    shipper.finish(0.1)
    assert time.monotonic() - began < 2
    assert not (tmp_path / "ended").exists()
    wait_until(lambda: shippers(os.getpid()) == [], "the shipper ends", 30)
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("closed", [[0], [1, 2], [0, 1, 2]])
def test_the_pipe_does_not_take_the_numbers_of_closed_streams(closed: list[int]) -> None:
    code = (
        f"import os; [os.close(fd) for fd in {closed}]\n"
        "from nntrain.integrations.shipping.client import ShipperProcess\n"
        "shipper = ShipperProcess(); shipper.start({})\n"
        "os._exit(0 if min(shipper._pipe, shipper._mark) > 2 else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["no run", "no start"])
def test_a_process_that_dies_before_its_run_starts_leaves_no_shipper(
    tmp_path: Path, store_uri: str, kind: str
) -> None:
    with start_training(kind) as training:
        assert training.stdout is not None
        training.stdout.readline()
        training.kill()
        wait_until(lambda: shippers(training.pid) == [], "the shipper ends", 15)


def test_a_process_without_a_run_does_not_wait(
    tracker: MLflowTracker, shipper: ShipperProcess
) -> None:
    assert shipper.finish() == []
    shipper.start({"mlflow": tracker})
    assert len(shippers(os.getpid())) == 1
    began = time.monotonic()
    assert shipper.finish() == []
    assert time.monotonic() - began < 1


def test_a_run_that_continues_after_the_wait_for_delivery_is_delivered_too(
    tmp_path: Path, tracker: MLflowTracker, shipper: ShipperProcess
) -> None:
    with nntrain.track(tracker, folder="run", shipper=shipper) as run:
        journal = run.folder / JOURNAL
        run.log_metrics({"batch/loss": 0.5}, 1)
        shipper.finish(0.1)
        run.log_metrics({"batch/loss": 1.0}, 2)
        check_until(shipper, lambda: n_delivered(journal) == 3, "the second point")
        shipper.finish(0.1)
    assert shipper.finish() == []
    assert series(tmp_path) == losses(1, 2)
    assert the_run(tmp_path).info.status == "FINISHED"


def test_a_run_that_ends_after_the_wait_for_delivery_does_not_disturb_later_runs(
    tracker: MLflowTracker, shipper: ShipperProcess
) -> None:
    with nntrain.track(tracker, folder="first", shipper=shipper) as first:
        first.log_metrics({"batch/loss": 0.5}, 1)
        shipper.finish(0.1)
    with nntrain.track(tracker, folder="second", shipper=shipper) as second:
        second.log_metrics({"batch/loss": 0.5}, 1)
    assert shipper.finish() == []
    assert all(read_state(run.folder / JOURNAL, "mlflow").done for run in (first, second))


MINE = """
import json
from dataclasses import dataclass
from pathlib import Path

from nntrain.integrations.memory import MemoryClient, MemoryTracker


@dataclass(frozen=True)
class FileTracker(MemoryTracker):
    path: str = ""

    def connect(self):
        return FileClient(self)


class FileClient(MemoryClient):
    def __init__(self, tracker):
        super().__init__(tracker)
        self.path = Path(tracker.path)

    def finish(self, end):
        self.path.write_text(json.dumps([self.run.series("batch/loss"), str(end.reason)]))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's tracker that writes what it received to a file."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mine", module)
    spec.loader.exec_module(module)
    return module.FileTracker(path=str(tmp_path / "mine.json"))


def test_a_tracker_of_a_trusted_package_is_used(
    tmp_path: Path, mine: Any, shipper: ShipperProcess, writer: JournalWriter
) -> None:
    write(writer, START, *batches(1, 4), END)
    shipper.add(Shipment(writer.path, {"mine": mine}, ["mine"]))
    assert shipper.finish() == []
    assert (
        tmp_path / "mine.json"
    ).read_text() == '[[[1, 0.5], [2, 1.0], [3, 1.5], [4, 2.0]], "completed"]'


def test_the_message_about_a_broken_client_names_the_class_and_the_command(
    mine: Any,
    shipper: ShipperProcess,
    writer: JournalWriter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = Path(sys.modules["mine"].__file__ or "")
    source.write_text(source.read_text().replace("return FileClient(self)", "return 3"))
    write(writer, START, *batches(1, 4), END)
    shipper.add(Shipment(writer.path, {"mine": mine}, ["mine"]))
    wait_until(lambda: read_state(writer.path, "mine").error is not None, "the error", 30)
    began = time.monotonic()
    tell_backlog(shipper.finish(1))
    assert time.monotonic() - began < 3
    assert capsys.readouterr().err == (
        f"nntrain: mine has not received 4 metric rows of {writer.path} because delivery fails "
        "(TypeError: mine.FileTracker.connect() returned 3 instead of a TrackerClient: fix it). "
        f"To deliver the rest, run: python -m nntrain.sync {writer.path.parent} --trust mine "
        "--to-recorded\n"
    )


def test_a_tracker_of_another_package_is_refused_and_the_other_trackers_get_the_run(
    tmp_path: Path,
    mine: Any,
    tracker: MLflowTracker,
    shipper: ShipperProcess,
    writer: JournalWriter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(writer, START, *batches(1, 4))
    shipper.start({"mine": mine, "mlflow": tracker})
    shipper.add(Shipment(writer.path, {"mine": mine, "mlflow": tracker}))
    check_until(shipper, lambda: n_delivered(writer.path) == 2, "the rows")
    write(writer, END)
    (missing,) = shipper.finish()
    (message,) = warnings(caplog)
    assert "delivery to mine failed (ConfigError: " in message
    assert "tracker.mine._target_=mine.FileTracker is not trusted" in message
    assert missing.name == "mine"
    assert not (tmp_path / "mine.json").exists()
    assert series(tmp_path) == losses(1, 4)


@pytest.mark.parametrize("fault", [None, Fault.HANG, Fault.ERROR])
def test_a_dead_server_delays_the_end_only_up_to_the_timeout(
    shipper: ShipperProcess,
    writer: JournalWriter,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    fault: Fault | None,
) -> None:
    with FaultyServer(fault=fault or Fault.NONE) as server:
        uri = server.uri if fault else f"http://127.0.0.1:{free_port()}"
        write(writer, START, *batches(1, 4))
        shipper.finish_timeout_s = 3.0
        shipper.add(Shipment(writer.path, {"mlflow": MLflowTracker(uri, system_metrics=False)}))
        if fault is not Fault.HANG:
            check_until(shipper, lambda: bool(warnings(caplog)), "a warning about the server")
        write(writer, END)
        began = time.monotonic()
        left = shipper.finish()
        assert 2.5 < time.monotonic() - began < 5
    tell_backlog(left)
    told = capsys.readouterr().err
    assert told.startswith(f"nntrain: mlflow has not received 4 metric rows of {writer.path}")
    command = f"python -m nntrain.sync {writer.path.parent} --to-recorded --login {uri[7:]}"
    assert told.endswith(f"To deliver the rest, run: {command}\n")
    assert told.count("\n") == 1
    assert len(warnings(caplog)) == (0 if fault is Fault.HANG else 1)


def test_ctrl_c_ends_the_wait(shipper: ShipperProcess, writer: JournalWriter) -> None:
    write(writer, START, *batches(1, 4), END)
    uri = f"http://127.0.0.1:{free_port()}"
    shipper.add(Shipment(writer.path, {"mlflow": MLflowTracker(uri, system_metrics=False)}))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    (missing,) = shipper.finish(60)
    assert time.monotonic() - began < 3
    assert missing.n_row == 4


def test_a_hanging_server_does_not_delay_other_trackers(
    tmp_path: Path, tracker: MLflowTracker, shipper: ShipperProcess, writer: JournalWriter
) -> None:
    with FaultyServer(fault=Fault.HANG) as server:
        hanging = MLflowTracker(server.uri, system_metrics=False)
        write(writer, START, *batches(1, 4), END)
        shipper.add(Shipment(writer.path, {"hanging": hanging, "mlflow": tracker}))
        wait_until(lambda: read_state(writer.path, "mlflow").done, "the other tracker", 30)
        assert [missing.name for missing in shipper.finish(0.5)] == ["hanging"]
    assert the_run(tmp_path).info.status == "FINISHED"


def test_a_deleted_journal_is_not_reported(
    tracker: MLflowTracker,
    shipper: ShipperProcess,
    writer: JournalWriter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(writer, START, *batches(1, 4))
    shipper.add(Shipment(writer.path, {"mlflow": tracker}))
    wait_until(lambda: n_delivered(writer.path) == 2, "the rows", 30)
    writer.path.unlink()
    assert shipper.finish(20) == []
    assert warnings(caplog) == []


def deliver_in_process(journal: Path, trackers: Sequence[MemoryTracker]) -> None:
    shipment = Shipment(journal, {str(i): tracker for i, tracker in enumerate(trackers)})
    InProcess().add(shipment)
    InProcess().check()
    InProcess().ended(shipment)


def test_in_process_delivery_happens_at_the_end_of_the_run_to_all_trackers(tmp_path: Path) -> None:
    trackers = [MemoryTracker(), MemoryTracker()]
    deliver_in_process(append(tmp_path, [START, *batches(1, 4), END]), trackers)
    assert [tracker.series("batch/loss") for tracker in trackers] == [losses(1, 4)] * 2
    assert all(tracker.run.end is not None for tracker in trackers)


def test_a_fit_can_be_resumed_in_the_same_process_while_its_tracker_is_dead(
    shipper: ShipperProcess, store_uri: str
) -> None:
    dead = {"mlflow": MLflowTracker(f"http://127.0.0.1:{free_port()}", system_metrics=False)}
    first = TrackerCallback(dead, "first", shipper=shipper)
    toy_learner(cbs=[first, Checkpoint("checkpoints"), InterruptAt(1, 2)]).fit(3)
    began = time.monotonic()
    second = TrackerCallback(dead, "second", shipper=shipper)
    learn = toy_learner(cbs=[second, Checkpoint("checkpoints", resume="checkpoints")])
    learn.fit(3)
    assert time.monotonic() - began < 15
    (missing,) = shipper.finish(0)
    assert missing.journal == second.journal
    assert (
        sync.main(["first", "second", "--to", "mlflow", "--set", f"tracking_uri={store_uri}"]) == 0
    )
    client, run = only_run(Path.cwd())
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "batch/loss")]
    assert steps == list(range(1, learn.train_iter + 1))
