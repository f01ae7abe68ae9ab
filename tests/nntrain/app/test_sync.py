"""`nntrain.sync`: odd journals and states, and where a journal from somebody else may be sent."""

import json
import os
import shlex
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nntrain.app import sync
from nntrain.integrations import MLflowTracker, WandbTracker
from nntrain.integrations.journal.records import JOURNAL, encode, read_journal
from nntrain.integrations.shipping.destinations import elsewhere, sync_options
from nntrain.integrations.shipping.spec import spec_of
from nntrain.integrations.shipping.state import read_state
from nntrain.integrations.tensorboard import TensorBoardTracker
from nntrain.integrations.tracker import Tracker
from tests.common.journals import END, START, append, batches, losses, start
from tests.common.odd_journals import RECORDS, UNUSUAL, run_with, with_odd_values

Capture = pytest.CaptureFixture[str]

TAGS = {"kind": "tags", "tags": {"a": "b"}}


@pytest.fixture
def tracker() -> Tracker:
    """TensorBoard in the current folder: it needs no server and is imported quickly."""
    return TensorBoardTracker(system_metrics=False).resolved()


def received(log_dir: str = "runs", run: str = "*") -> list[tuple[int, float]]:
    """Returns the losses in the event files of the only run."""
    (folder,) = Path(log_dir).glob(run)
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("batch/loss")]


def line(body: bytes) -> bytes:
    """Returns a line with a correct checksum; `body` lacks the closing brace."""
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


ODD: dict[str, bytes] = {
    "no kind": encode({"a": 1}),
    "kind is a number": encode({"kind": 3}),
    "unknown reason": encode({**END, "reason": "fell asleep"}),
    "no reason": encode({"kind": "end"}),
    "version is a text": encode({**START, "version": "1"}),
    "version is a boolean": encode({**START, "version": True}),
    "version is negative": encode({**START, "version": -1}),
    "run is a list": encode({**START, "run": []}),
    "uid leads elsewhere": encode(run_with(uid="../../x")),
    "params are a list": encode(run_with(params=[1])),
    "tags of the run are numbers": encode(run_with(tags={"a": 1})),
    "process is null": encode(run_with(process=None)),
    "args are numbers": encode(run_with(process={"args": [1]})),
    "trackers are a list": encode({**START, "trackers": [1]}),
    "spec is a text": encode({**START, "trackers": {"a": "b"}}),
    "deep nesting": line(b'{"kind":"tags","tags":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "nested parameters": encode(run_with(params={"a": json.loads("[" * 300 + "]" * 300)})),
    "not UTF-8": line(b'{"kind":"tags","tags":{"a":"\xff\xfe"}'),
    "not JSON": line(b'{"kind":'),
    "integer with 5000 digits": line(b'{"kind":"metrics","step":' + b"9" * 5000),
    "step above 64 bits": encode(
        {"kind": "metrics", "time_ms": [1], "step": [2**70], "values": {"a": [1.0]}}
    ),
    "steps are an object": encode(
        {"kind": "metrics", "time_ms": [1], "step": {"1": 1}, "values": {"a": [1.0]}}
    ),
    "values are texts": encode(
        {"kind": "metrics", "time_ms": [1], "step": [1], "values": {"a": ["x"]}}
    ),
    "values are null": encode({"kind": "metrics", "time_ms": [1], "step": [1], "values": None}),
    "columns of different lengths": encode(
        {"kind": "metrics", "time_ms": [1, 2], "step": [1], "values": {"a": [1.0]}}
    ),
    "edges are a text": encode(
        {"kind": "histograms", "time_ms": 1, "step": 1, "edges": "x", "counts": {"a": [1.0]}}
    ),
    "tags are a list": encode({"kind": "tags", "tags": ["a"]}),
    "path is a number": encode({"kind": "figure", "path": 3, "name": "a", "step": 1}),
    "aliases are null": encode({"kind": "artifact", "path": "a", "name": "a", "aliases": None}),
    "node is a list": encode(
        {"kind": "model", "path": "a", "name": "a", "aliases": [], "node": [1]}
    ),
    "rows are numbers": encode(
        {"kind": "table", "name": "a", "columns": ["a"], "rows": [1], "step": 1}
    ),
    "continued by a list": encode({"kind": "continued", "by": []}),
    "columns are numbers": encode(
        {"kind": "table", "name": "a", "columns": [1], "rows": [[1]], "step": 1}
    ),
    "no such signal": encode({**END, "reason": "interrupted", "signum": 10**17}),
    "process id above 32 bits": encode(run_with(process={"pid": 2**63 - 1})),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_line_is_named_the_rest_is_delivered_and_the_exit_code_is_1(
    tmp_path: Path, tracker: Tracker, capsys: Capture, odd: str
) -> None:
    journal = append(tmp_path / "a", [start(tracker, "tensorboard")])
    with open(journal, "ab") as file:
        file.write(ODD[odd])
    append(tmp_path / "a", [*batches(1, 4), END])
    append(tmp_path / "b", [start(tracker, "tensorboard", "b" * 16), *batches(1, 4), END])
    assert sync.main(["."]) == 1
    said = capsys.readouterr()
    (told,) = said.err.splitlines()
    assert told.startswith("nntrain.sync: a/journal.jsonl, line 2: ")
    assert "b/journal.jsonl: delivered." in said.out
    for uid in (START["run"]["uid"], "b" * 16):
        assert received(run=f"*{uid}") == losses(1, 4)
    assert sync.main(["."]) == 1
    assert capsys.readouterr().err.splitlines() == [told]


def test_every_key_of_every_record_may_have_any_value(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    odd = [one for record in RECORDS for one in with_odd_values(record)]
    journal = append(tmp_path / "a", [start(tracker, "tensorboard"), *odd, *batches(1, 4), END])
    assert sync.main(["."]) == 1
    told = capsys.readouterr().err.splitlines()
    wrong = read_journal(journal).wrong
    assert len(wrong) > 200
    assert all(
        f"nntrain.sync: a/journal.jsonl, line {n}: " in told[i] for i, n in enumerate(wrong[:20])
    )
    assert f"nntrain.sync: a/journal.jsonl: {len(wrong) - 20} more lines are wrong" in told
    assert read_state(journal, "tensorboard").done
    assert received()[-4:] == losses(1, 4)


def test_every_key_of_an_end_and_a_start_may_have_any_value(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    first = start(tracker, "tensorboard")
    starts = [
        *with_odd_values(dict(first)),
        *({**first, "run": run} for run in with_odd_values(first["run"])),
        *(run_with(process=process) for process in with_odd_values(first["run"]["process"])),
    ]
    for i, odd in enumerate(starts):
        append(tmp_path / f"runs/start-{i}", [odd, *batches(1, 4), END])
    for i, odd in enumerate(with_odd_values(END)):
        uid = f"{i:016}"
        append(
            tmp_path / f"runs/end-{i}", [start(tracker, "tensorboard", uid), *batches(1, 4), odd]
        )
    append(tmp_path / "runs/whole", [start(tracker, "tensorboard", "w" * 16), *batches(1, 4), END])
    assert sync.main(["runs"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert received(run=f"*{'w' * 16}") == losses(1, 4)


@pytest.mark.parametrize("has_end", [True, False])
@pytest.mark.parametrize("case", UNUSUAL)
def test_an_unusual_record_does_not_stop_the_delivery(
    tmp_path: Path, tracker: Tracker, capsys: Capture, case: str, has_end: bool
) -> None:
    records, n_refused = UNUSUAL[case]
    spec = {"trackers": {"tensorboard": spec_of(tracker)}}
    records = [{**one, **(spec if one["kind"] == "start" else {})} for one in records]
    journal = append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), *records])
    append(tmp_path / "a", [*batches(5, 8), *([END] if has_end else [])])
    assert sync.main(["a"]) == 0, capsys.readouterr().err
    assert received()[:4] + received()[-4:] == losses(1, 8)
    assert read_state(journal, "tensorboard").n_refused == n_refused
    capsys.readouterr()
    assert sync.main(["a"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("torn", [b'{"kind":"ta', b"\0\0\0"])
def test_an_incomplete_line_after_the_end_is_removed(
    tmp_path: Path, tracker: Tracker, torn: bytes
) -> None:
    journal = append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    assert sync.main(["a"]) == 0
    assert journal.read_bytes() == whole


def _replaced(folder: Path, place: str) -> Path:
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    return path


PLACES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a folder as journal": (JOURNAL, Path.mkdir, "is not a regular file: remove it"),
    "a pipe as journal": (JOURNAL, os.mkfifo, "is not a regular file: remove it"),
    "a link to itself": (JOURNAL, lambda path: path.symlink_to(path), "is a symbolic link"),
    "a link to nothing": (JOURNAL, lambda path: path.symlink_to("x"), "is a symbolic link"),
    "a link to a device": (
        JOURNAL,
        lambda path: path.symlink_to("/dev/zero"),
        "is a symbolic link",
    ),
    "a folder as state": ("delivery/tensorboard.json", Path.mkdir, "is not a regular file"),
    "a pipe as state": ("delivery/tensorboard.json", os.mkfifo, "is not a regular file"),
    "a folder as lock": ("delivery/lock", Path.mkdir, "is not a regular file"),
    "a pipe as lock": ("delivery/lock", os.mkfifo, "is not a regular file"),
    "a file as folder": ("delivery", Path.touch, "is not a folder"),
    "a folder as part": ("delivery/tensorboard.part", Path.mkdir, "is not a regular file"),
}


@pytest.mark.parametrize("case", PLACES)
def test_something_else_in_the_place_of_a_file_is_named_and_the_others_are_delivered(
    tmp_path: Path, tracker: Tracker, capsys: Capture, case: str
) -> None:
    place, make, told = PLACES[case]
    for name in ("a", "b"):
        append(tmp_path / name, [start(tracker, "tensorboard", name * 16), *batches(1, 4), END])
    make(_replaced(tmp_path / "a", place))
    assert sync.main([".", "--timeout-s", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{Path('a') / place} {told}" in line
    assert received(run=f"*{'b' * 16}") == losses(1, 4)


def test_a_folder_that_does_not_exist_does_not_stop_the_others(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    assert sync.main(["nowhere", "a"]) == 1
    assert capsys.readouterr().err.startswith("nntrain.sync: nowhere does not exist: pass the")
    assert received() == losses(1, 4)


def test_a_pipe_that_is_passed_is_named(tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "a")
    assert sync.main(["a"]) == 1
    assert capsys.readouterr().err == "nntrain.sync: a is not a regular file: remove it.\n"


def test_two_journals_of_one_run_are_named(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    append(tmp_path / "b", [start(tracker, "tensorboard"), *batches(1, 4), END])
    told = (
        "b/journal.jsonl records the same run as a/journal.jsonl: a tracker has one run for both."
    )
    assert sync.main(["."]) == 0
    assert told in capsys.readouterr().out.splitlines()
    assert received() == losses(1, 4)
    assert sync.main(["."]) == 0
    assert told not in capsys.readouterr().out


@pytest.mark.parametrize("by", ["/nowhere/journal.jsonl", "\ud800", "a/journal.jsonl"])
def test_a_run_that_is_continued_in_a_missing_folder_is_named(
    tmp_path: Path, tracker: Tracker, capsys: Capture, by: str
) -> None:
    continued = {"kind": "continued", "by": by}
    append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), continued])
    assert sync.main(["a"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("nntrain.sync: a/journal.jsonl is continued by ")
    assert "which is not here: pass the folder of that run" in said.err
    assert "are delivered" not in said.out
    append(tmp_path / "moved", [start(tracker, "tensorboard"), *batches(1, 8), END])
    assert sync.main(["."]) == 0
    assert received() == losses(1, 8)


NO_START: dict[str, bytes] = {
    "empty": b"",
    "garbage": bytes(range(256)) * 4 + b"\n",
    "only an end": encode(END),
    "a wrong start": ODD["version is a text"],
    "a deep start": ODD["nested parameters"],
    "a list": b"[1]\n",
}


@pytest.mark.parametrize("content", NO_START)
def test_a_journal_without_a_valid_start_is_named_and_the_others_are_delivered(
    tmp_path: Path, tracker: Tracker, capsys: Capture, content: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / JOURNAL).write_bytes(NO_START[content])
    append(tmp_path / "b", [start(tracker, "tensorboard"), *batches(1, 4), END])
    assert sync.main(["."]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("nntrain.sync: a/journal.jsonl has no start record: expected a journal")
    assert "line 1" in told or content in ("empty", "only an end")
    assert received() == losses(1, 4)


TRACKERS: dict[str, dict[str, Any]] = {
    "no target": {"a": {}},
    "target is a number": {"a": {"_target_": 3}},
    "setting is a list": {"a": {**spec_of(TensorBoardTracker()), "log_dir": [1]}},
    "setting is an object": {"a": {**spec_of(MLflowTracker()), "tracking_uri": {"a": 1}}},
    "unknown setting": {"a": {**spec_of(MLflowTracker()), "colour": "red"}},
    "name above": {"../../x": spec_of(TensorBoardTracker())},
    "absolute name": {"/tmp/x": spec_of(TensorBoardTracker())},
    "NUL in the name": {"a\0": spec_of(TensorBoardTracker())},
    "surrogate in the name": {"\ud800": spec_of(TensorBoardTracker())},
    "long name": {"a" * 300: spec_of(TensorBoardTracker())},
    "empty folder": {"a": {**spec_of(TensorBoardTracker()), "log_dir": "x\0"}},
}


@pytest.mark.parametrize("odd", TRACKERS)
def test_an_odd_tracker_is_reported_and_the_others_get_the_run(
    tmp_path: Path, tracker: Tracker, capsys: Capture, odd: str
) -> None:
    trackers = {**TRACKERS[odd], "tensorboard": spec_of(tracker)}
    append(tmp_path / "deep/er/a", [{**START, "trackers": trackers}, *batches(1, 4), END])
    append(tmp_path / "deep/er/b", [start(tracker, "tensorboard", "b" * 16), *batches(1, 4), END])
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert sync.main(["deep"]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("nntrain.sync: ")
    assert received(run=f"*{START['run']['uid']}") == losses(1, 4)
    assert received(run=f"*{'b' * 16}") == losses(1, 4)
    allowed = (tmp_path / "runs", tmp_path / "deep/er/a/delivery", tmp_path / "deep/er/b/delivery")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(any(path.is_relative_to(place) for place in allowed) for path in new)


STATES: dict[str, bytes] = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "offset is a text": b'{"offset": "1"}',
    "offset is negative": b'{"offset": -1}',
    "offset inside a line": b'{"offset": 10, "line": 1}',
    "offset beyond the end": b'{"offset": 99999999, "line": 5, "done": true}',
    "huge integer": b'{"line": 1' + b"0" * 400 + b"}",
    "done is a number": b'{"done": 1}',
    "held is an object": b'{"held": {"a": 1}}',
    "held without keys": b'{"held": [{"step": 1}]}',
    "notes are null": b'{"notes": null}',
    "unsupported is a list": b'{"unsupported": ["tags"]}',
    "run id is an object": b'{"run_id": {}}',
    "escape sequences": b'{"run_id": "\\u001b[2J"}',
    "lone surrogate": b'{"run_id": "\\ud800"}',
    "done without a run": b'{"done": true}',
    "offset without a run": b'{"offset": 4, "line": 1}',
    "more rows than sent": b'{"run_id": "a", "held_rows": -9000}',
    "not a number": b'{"n_tries": NaN}',
    "escape sequences in a note": b'{"notes": ["\\u001b[2J\\nnntrain: fine"]}',
}


@pytest.mark.parametrize("odd", STATES)
def test_an_odd_state_is_replaced_and_the_run_is_sent_once(
    tmp_path: Path, tracker: Tracker, capsys: Capture, odd: str
) -> None:
    for name in ("a", "b"):
        append(tmp_path / name, [start(tracker, "tensorboard", name * 16), *batches(1, 4), END])
    (tmp_path / "a/delivery").mkdir()
    (tmp_path / "a/delivery/tensorboard.json").write_bytes(STATES[odd])
    assert sync.main(["."]) == 0
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert len(told.splitlines()) <= 1
    assert told.rstrip("\n").isprintable()
    for name in ("a", "b"):
        assert received(run=f"*{name * 16}") == losses(1, 4)
        assert read_state(tmp_path / name / JOURNAL, "tensorboard").done


# --- names that cannot be stored


def test_names_that_cannot_be_stored_are_counted_once_and_the_rest_is_delivered(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    bad = "a\ud800"
    metrics = {"kind": "metrics", "time_ms": [1], "step": [5], "values": {bad: [1.0], "b": [2.0]}}
    run = run_with(params={bad: 1, "ok": bad}, tags={bad: "x", "ok": bad}, texts={"../x": "y"})
    spec = {"trackers": {"tensorboard": spec_of(tracker)}}
    tags = {"kind": "tags", "tags": {"nul\0": "x", "ok": "nul\0"}}
    table = {"kind": "table", "name": bad, "columns": ["a"], "rows": [[bad]], "step": 1}
    append(tmp_path / "a", [{**run, **spec}, metrics, tags, table, *batches(1, 4), END])
    assert sync.main(["a"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"a/journal.jsonl: tensorboard: {what}: its name cannot be stored"
        for what in (
            r"param 'a\ud800'",
            r"tag 'a\ud800'",
            "text '../x'",
            r"metrics 'a\ud800'",
            r"tags 'nul\x00'",
            r"table 'a\ud800'",
        )
    ]
    assert read_state(tmp_path / "a" / JOURNAL, "tensorboard").n_refused == 6
    assert received() == losses(1, 4)
    assert sync.main(["a"]) == 0
    assert read_state(tmp_path / "a" / JOURNAL, "tensorboard").n_refused == 6


# --- links


def test_a_journal_that_is_a_link_is_not_written(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    target = append(tmp_path / "elsewhere", [start(tracker, "tensorboard"), *batches(1, 4)])
    before = target.read_bytes()
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a" / JOURNAL).symlink_to(target)
    assert sync.main(["runs"]) == 1
    assert capsys.readouterr().err == (
        f"nntrain.sync: runs/a/journal.jsonl is a symbolic link: pass the folder of the run, "
        f"{tmp_path / 'elsewhere'}.\n"
    )
    assert target.read_bytes() == before


def test_a_link_out_of_the_folder_is_not_read(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    (tmp_path / "secret.png").write_bytes(b"hunter2")
    figures = [
        {"kind": "figure", "path": path, "name": f"{i}.png", "step": i}
        for i, path in enumerate(["link.png", "files/secret.png", "../secret.png", "loop/loop"])
    ]
    append(tmp_path / "a", [start(tracker, "tensorboard"), *figures, *batches(1, 4), END])
    (tmp_path / "a/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "a/files").symlink_to(tmp_path)
    (tmp_path / "a/loop").symlink_to("loop")
    assert sync.main(["a"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert all("is outside the folder of the run" in line for line in told[:3])
    assert len(told) == 4
    assert not any(b"hunter2" in path.read_bytes() for path in (tmp_path / "runs").rglob("*.rows"))


def test_the_folder_of_a_run_that_is_a_link_is_not_written(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/x.about").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / f"runs/x-{START['run']['uid']}").symlink_to(tmp_path / "victim")
    assert sync.main(["a", "--timeout-s", "0"]) == 1
    assert "by a symbolic link" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["x.about"]


def test_a_linked_folder_is_not_searched(tmp_path: Path, tracker: Tracker, capsys: Capture) -> None:
    append(tmp_path / "elsewhere", [start(tracker, "tensorboard"), *batches(1, 4), END])
    (tmp_path / "found").mkdir()
    (tmp_path / "found/link").symlink_to(tmp_path / "elsewhere")
    assert sync.main(["found"]) == 0
    assert capsys.readouterr().out == "No journal.jsonl found under 'found'.\n"


@pytest.mark.parametrize("place", ["delivery", "delivery/lock", "delivery/tensorboard.part"])
def test_no_link_is_followed_when_the_state_is_written(
    tmp_path: Path, tracker: Tracker, capsys: Capture, place: str
) -> None:
    folder = tmp_path / "a"
    append(folder, [start(tracker, "tensorboard"), *batches(1, 4), END])
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").write_text("precious")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to(tmp_path / ("victim" if place == "delivery" else "victim/file"))
    code = sync.main(["a"])
    assert (tmp_path / "victim/file").read_text() == "precious"
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["file"]
    if place.endswith(".part"):
        assert code == 0
    else:
        assert code == 1
        assert f"{Path('a') / place} is a symbolic link" in capsys.readouterr().err


# --- destinations


class Listener(HTTPServer):
    """A server that keeps the headers of all requests and answers each with an error."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.headers: list[dict[str, str]] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.headers.append(dict(self.headers))
        self.send_response(400)
        self.end_headers()

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets logins in the environment, in `.netrc` and in MLflow's own file."""
    folder = tmp_path / "home"
    (folder / ".mlflow").mkdir(parents=True)
    (folder / ".netrc").write_text("machine 127.0.0.1\nlogin me\npassword hunter2\n")
    creds = "[mlflow]\nmlflow_tracking_username=me\nmlflow_tracking_password=hunter2\n"
    (folder / ".mlflow/credentials").write_text(creds)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def foreign(folder: Path, uri: str) -> None:
    tracker = MLflowTracker(uri, system_metrics=False)
    append(folder, [start(tracker), *batches(1, 4), END])


def test_nothing_is_sent_to_a_server_that_only_the_journal_names(
    tmp_path: Path, listener: Listener, home: None, capsys: Capture
) -> None:
    foreign(tmp_path / "a", listener.uri)
    assert sync.main(["a"]) == 1
    assert sync.main(["a", "--list"]) == 1
    assert sync.main(["a", "--again"]) == 1
    assert listener.headers == []
    assert capsys.readouterr().err.splitlines()[0] == (
        f"nntrain.sync: a/journal.jsonl names {listener.uri} for mlflow, but your settings name "
        f"{tmp_path}/mlflow.db: add --to-recorded to send the run there, or --to mlflow to send "
        "the run to yours."
    )


@pytest.mark.parametrize(
    ("args", "has_login"),
    [(["--to-recorded"], False), (["--to-recorded", "--login", "127.0.0.1"], True)],
)
def test_a_recorded_server_gets_logins_only_if_the_user_names_it(
    tmp_path: Path, listener: Listener, home: None, args: Sequence[str], has_login: bool
) -> None:
    foreign(tmp_path / "a", listener.uri)
    before = dict(os.environ)
    assert sync.main(["a", "--timeout-s", "0", *args]) == 1
    assert listener.headers
    assert all(("Authorization" in one) == has_login for one in listener.headers)
    assert not any("hunter2" in text for one in listener.headers for text in one.values()) or (
        has_login
    )
    assert {k: v for k, v in os.environ.items() if k in before} == before


def test_the_server_of_the_environment_gets_the_run_and_the_login(
    tmp_path: Path, listener: Listener, home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path / "a", f"{listener.uri}/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", listener.uri)
    assert sync.main(["a", "--timeout-s", "0"]) == 1
    assert all("Authorization" in one for one in listener.headers)


def test_wandb_needs_a_named_host(tmp_path: Path, home: None, capsys: Capture) -> None:
    tracker = WandbTracker(base_url="http://127.0.0.1:9", dir=str(tmp_path), mode="online")
    append(tmp_path / "a", [start(tracker, "wandb"), *batches(1, 4), END])
    assert sync.main(["a"]) == 1
    assert "names http://127.0.0.1:9 for wandb, but your settings name" in capsys.readouterr().err
    assert sync.main(["a", "--to-recorded"]) == 1
    assert capsys.readouterr().err == (
        "nntrain.sync: W&B at 127.0.0.1:9 needs your login: add --login 127.0.0.1:9 to send it "
        "there.\n"
    )


def test_a_folder_elsewhere_is_created_only_if_asked(tmp_path: Path, capsys: Capture) -> None:
    tracker = TensorBoardTracker(str(tmp_path / "elsewhere/events"), system_metrics=False)
    (tmp_path / "here").mkdir()
    append(tmp_path / "here/a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    os.chdir(tmp_path / "here")
    assert sync.main(["a"]) == 1
    assert f"names {tmp_path}/elsewhere/events for tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
    assert sync.main(["a", "--to-recorded"]) == 0
    assert received(str(tmp_path / "elsewhere/events")) == losses(1, 4)


OWN: dict[str, tuple[Tracker, str]] = {
    "the default": (MLflowTracker(), ""),
    "a database in the current folder": (MLflowTracker("sqlite:///a/b.db"), ""),
    "a database elsewhere": (MLflowTracker("sqlite:////elsewhere/b.db"), " --to-recorded"),
    "a hidden database": (MLflowTracker("sqlite:///.ssh/b.db"), " --to-recorded"),
    "a server": (
        MLflowTracker("http://host:5000"),
        " --to-recorded --login host:5000",
    ),
    "a server with a login": (
        MLflowTracker("https://me:hunter2@host/path"),
        " --to-recorded --login host",
    ),
    "a look-alike": (
        MLflowTracker("http://own:5000@evil:5000"),
        " --to-recorded --login evil:5000",
    ),
    "W&B": (WandbTracker(), ""),
    "W&B offline": (WandbTracker(mode="offline"), ""),
    "W&B disabled": (WandbTracker(mode="disabled", dir="/elsewhere"), ""),
    "W&B elsewhere": (WandbTracker(dir="/elsewhere"), " --to-recorded"),
    "TensorBoard": (TensorBoardTracker(), ""),
}


WRONG = {
    "MLFLOW_TRACKING_URI": ("file:///x", MLflowTracker("http://host:5000", "named")),
    "MLFLOW_EXPERIMENT_NAME": ("x" * 501, MLflowTracker("http://host:5000", "named")),
    "WANDB_PROJECT": ("a/b", WandbTracker("named", mode="offline", dir="/elsewhere")),
    "WANDB_MODE": ("off", WandbTracker("named", mode="offline", dir="/elsewhere")),
}


@pytest.mark.parametrize("variable", WRONG)
def test_a_wrong_variable_does_not_matter_if_the_setting_is_given(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, tracker = WRONG[variable]
    monkeypatch.setenv(variable, value)
    assert sync_options(tracker).startswith(" --to-recorded")


@pytest.mark.parametrize("case", OWN)
def test_the_command_of_a_run_names_what_sync_will_ask_for(case: str) -> None:
    tracker, options = OWN[case]
    assert sync_options(tracker) == options
    assert bool(elsewhere(tracker)) == bool(options)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("http://host:5000", "http://HOST:5000/"),
        ("https://host", "https://host:443"),
        ("https://me:secret@host", "https://host"),
    ],
)
def test_one_server_may_be_written_in_several_ways(
    mine: str, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mine)
    assert elsewhere(MLflowTracker(theirs)) == []


# --- lost runs


def test_a_run_that_the_tracker_lost_is_named_and_sent_again_on_request(
    tmp_path: Path, tracker: Tracker, capsys: Capture
) -> None:
    append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    assert sync.main(["a"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    capsys.readouterr()
    told = (
        f"tensorboard no longer has the run of a/journal.jsonl (its folder {folder} does not "
        "exist): to send it again, run python -m nntrain.sync a --again"
    )
    assert sync.main(["a"]) == 1
    assert capsys.readouterr().err == f"{told}\n"
    assert sync.main(["--list", "a"]) == 0  # asks no tracker
    assert sync.main(["a", "--again"]) == 0
    assert received() == losses(1, 4)
    assert (tmp_path / "a/delivery/tensorboard.json.1").is_file()
    assert sync.main(["a"]) == 0


@pytest.mark.parametrize(
    "name", ["a b", "lr=0.1, (v2)", "it's", "50%?", "-x", "\u00e4\u4e2d", "$(touch x)"]
)
def test_the_command_that_is_printed_can_be_pasted(
    tmp_path: Path, tracker: Tracker, capsys: Capture, name: str
) -> None:
    append(tmp_path / name, [start(tracker, "tensorboard"), *batches(1, 4), END])
    assert sync.main(["."]) == 0
    shutil.rmtree(tmp_path / "runs")
    capsys.readouterr()
    assert sync.main([f"./{name}"]) == 1
    _, _, command = capsys.readouterr().err.partition("to send it again, run ")
    program, *given = shlex.split(command)
    assert (program, given[:2]) == ("python", ["-m", "nntrain.sync"])
    assert sync.main(given[2:]) == 0
    assert received() == losses(1, 4)


def test_the_command_repeats_the_options(tmp_path: Path, capsys: Capture) -> None:
    tracker = TensorBoardTracker(str(tmp_path / "elsewhere"), system_metrics=False)
    (tmp_path / "here").mkdir()
    append(tmp_path / "here/a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    os.chdir(tmp_path / "here")
    assert sync.main(["a", "--to-recorded"]) == 0
    shutil.rmtree(tmp_path / "elsewhere")
    capsys.readouterr()
    assert sync.main(["a", "--to-recorded", "--login", "my host"]) == 1
    command = "python -m nntrain.sync a --to-recorded --login 'my host' --again"
    assert capsys.readouterr().err.endswith(f"to send it again, run {command}\n")


def test_again_sends_nothing_twice(tmp_path: Path, tracker: Tracker) -> None:
    append(tmp_path / "a", [start(tracker, "tensorboard"), *batches(1, 4), END])
    for args in ([], ["--again"], ["--again"]):
        assert sync.main(["a", *args]) == 0
        assert received() == losses(1, 4)
