"""A test suite for trackers."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from nntrain.integrations.journal.records import Record, end_record, start_record
from nntrain.integrations.shipping.delivery import PLURALS, Delivery
from nntrain.integrations.shipping.spec import spec_of
from nntrain.integrations.shipping.state import DeliveryState, state_path
from nntrain.integrations.tracker import (
    MetricRow,
    ModelFile,
    Refused,
    RunEnd,
    RunInfo,
    Table,
    Tracker,
    TrackerClient,
    Unsupported,
)
from nntrain.result import StopReason
from nntrain.testing.journals import PNG, append, file_with, records_of
from nntrain.testing.tracker_store import TrackerStore

NAN, INF = float("nan"), float("inf")
LARGEST, SMALLEST = sys.float_info.max, 5e-324

UID, OTHER_UID = "0123456789abcdef", "fedcba9876543210"
END = RunEnd(StopReason.COMPLETED, time_ms=9_000)
TABLE = Table("confusion/pairs", ["digit", "n"], [["three", 3], ["é", 4.5]])
ODD_PARAMS = {
    **{"long": "x" * 100_000, "": 1, "../up": 2, "a=b": 3, "a#b": 4},
    **{"nul": "\0", "none": None, "list": [1, "é"]},
}

OPTIONAL: Mapping[str, Callable[..., None]] = {
    "tags": TrackerClient.set_tags,
    "histograms": TrackerClient.histograms,
    "figure": TrackerClient.figure,
    "table": TrackerClient.table,
    "artifact": TrackerClient.artifact,
    "model": TrackerClient.model,
}
"""Maps each optional record kind to the client method that sends it."""

WITHOUT_LIBRARY = """
import json, sys
from nntrain.integrations.shipping.spec import tracker_of
spec, package, library = sys.argv[1:]
tracker_of(json.loads(spec), [package]).resolved()
sys.exit(library in sys.modules)
"""


class TrackerContract(TrackerStore):
    """Tests that every tracker must pass. Subclass this in a test module.

        class TestMyTracker(TrackerContract):
            library = "my_library"
            statuses = {reason: "failed" if is_failure(reason) else "done" for reason in StopReason}

            def make_tracker(self, folder):
                return MyTracker(str(folder))

            def read_runs(self): ...
            def read_series(self, run_id, key): ...
            def read_status(self, run_id): ...

    See `TrackerStore` for all hooks. Client methods that are not overridden must raise
    `Unsupported`.
    """

    # --- settings

    def test_the_settings_are_a_frozen_dataclass(self) -> None:
        """The settings survive a round trip through JSON, and are already resolved."""
        spec = spec_of(self.tracker)
        assert json.loads(json.dumps(spec)) == spec
        copy = self.restarted()
        assert spec_of(copy) == spec
        assert spec_of(copy.resolved()) == spec
        with pytest.raises(dataclasses.FrozenInstanceError):
            copy.anything = 1  # type: ignore[attr-defined]

    def test_the_settings_do_not_import_the_library(self) -> None:
        """A new process can create and resolve the tracker without its library."""
        package, spec = type(self.tracker).__module__.partition(".")[0], spec_of(self.tracker)
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_LIBRARY, json.dumps(spec), package, self.library],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
        assert done.returncode == 0

    # --- the run

    def test_a_run_that_starts_twice_is_one_run(self) -> None:
        """Another process finds the existing run by its `uid`."""
        first = self.client.start(RunInfo(uid=UID))
        again = self.restarted().connect()
        assert again.start(RunInfo(uid=UID)).run_id == first.run_id
        again.finish(END)
        assert self.read_runs() == [first.run_id]

    def test_start_says_where_the_run_is(self) -> None:
        """`where` contains the name of the run and has at most three lines."""
        started = self.client.start(RunInfo(uid=UID, name="a run"))
        assert "a run" in started.where
        assert len(started.where.splitlines()) <= 3
        self.client.finish(END)

    @pytest.mark.parametrize("reason", list(StopReason))
    def test_the_status_follows_from_the_reason(self, reason: StopReason) -> None:
        """Each stop reason is mapped to the expected status."""
        run_id = self._send(rows_of([1.0]), end=RunEnd(reason, "why", time_ms=9_000))
        assert self.read_status(run_id) == self.statuses[reason]

    def test_a_run_continues_after_its_end(self) -> None:
        """A resumed run has no duplicate rows, and its status is updated."""
        rows = rows_of([4.0, 3.0, 2.0, 1.0])
        first_end = RunEnd(StopReason.INTERRUPTED, time_ms=5_000)
        run_id = self._send(rows[:2], end=first_end)
        self.client = self.restarted().connect()
        assert self._send(rows, run_id=run_id) == run_id
        assert self.read_runs() == [run_id]
        self.check_series(run_id, "train/loss", [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)])
        assert self.read_status(run_id) == self.statuses[StopReason.COMPLETED]

    def test_two_runs_of_one_client_do_not_mix(self) -> None:
        """A client can be used for several runs, one after another."""
        first = self._send(rows_of([1.0, 2.0]))
        second = self._send(rows_of([3.0]), uid=OTHER_UID, end=RunEnd(StopReason.ERROR))
        assert sorted(self.read_runs()) == sorted([first, second])
        self.check_series(first, "train/loss", [(1, 1.0), (2, 2.0)])
        self.check_series(second, "train/loss", [(1, 3.0)])
        assert self.read_status(first) == self.statuses[StopReason.COMPLETED]
        assert self.read_status(second) == self.statuses[StopReason.ERROR]

    # --- metrics

    def test_rows_are_stored_complete_and_in_order(self) -> None:
        """One call sends 1200 rows with two metrics."""
        losses = [(i, i / 7) for i in range(1, 1201)]
        rates = [(i, 10.0 ** -(i % 30)) for i, _ in losses]
        pairs = zip(losses, rates, strict=True)
        run_id = self._send(
            [MetricRow(1_000 + i, i, {"a/b": a, "lr/group0": lr}) for (i, a), (_, lr) in pairs]
        )
        self.check_series(run_id, "a/b", losses)
        self.check_series(run_id, "lr/group0", rates)

    def test_rows_may_have_different_keys_or_be_absent(self) -> None:
        """Each metric has its own steps; an empty list of rows is allowed."""
        values = [{"a": 1.0}, {"b": 2.0}, {"a": 3.0}]
        run_id = self._start()
        self.client.metrics([MetricRow(i, i, row) for i, row in enumerate(values, 1)])
        self.client.metrics([])
        self.client.finish(END)
        self.check_series(run_id, "a", [(1, 1.0), (3, 3.0)])
        self.check_series(run_id, "b", [(2, 2.0)])

    @pytest.mark.parametrize("value", [NAN, INF, -INF, -0.0, LARGEST, SMALLEST])
    def test_extreme_values_are_stored(self, value: float) -> None:
        """If the store cannot represent a value, the test expects `stored(value)`."""
        run_id = self._send(rows_of([1.0, value]))
        self.check_series(run_id, "train/loss", [(1, 1.0), (2, value)])

    def test_the_same_rows_twice_change_nothing(self) -> None:
        """Rows that another process sends again are stored only once."""
        rows = rows_of([3.0, NAN, INF, 2.0])
        run_id = self._start()
        self.client.metrics(rows)
        self.client = self.restarted().connect()
        self._send(rows, run_id=run_id)
        self.check_series(run_id, "train/loss", [(1, 3.0), (2, NAN), (3, INF), (4, 2.0)])

    def test_system_metrics_do_not_count_as_rows_of_the_journal(self) -> None:
        """System metrics do not cause another process to skip or repeat rows of the run."""
        if not self.tracker.system_metrics:
            return
        rows = rows_of([3.0, 2.0, 1.0])
        run_id = self._start()
        self.client.metrics(rows[:1])
        self.client.system([MetricRow(1_500, 1, {"system/cpu_percent": 50.0})])
        self.client = self.restarted().connect()
        self._send(rows, run_id=run_id)
        self.check_series(run_id, "train/loss", [(1, 3.0), (2, 2.0), (3, 1.0)])
        self.check_series(run_id, "system/cpu_percent", [(1, 50.0)])

    def test_a_step_may_repeat_or_decrease(self) -> None:
        """All points are stored, including points with repeated or decreasing steps."""
        points = [(5, 1.0), (5, 2.0), (3, 3.0)]
        run_id = self._send([MetricRow(i, step, {"a": x}) for i, (step, x) in enumerate(points)])
        assert sorted(self.read_series(run_id, "a")) == sorted(points)

    @pytest.mark.parametrize("key", ["train/loss", "a b", "x/y.z-1:2", "perdita/é", "k" * 250])
    def test_unusual_keys_are_stored_unchanged(self, key: str) -> None:
        """Every key that nntrain allows is stored unchanged."""
        run_id = self._send(rows_of([1.0, 2.0], key=key))
        self.check_series(run_id, key, [(1, 1.0), (2, 2.0)])

    # --- params and tags

    def test_params_of_all_kinds_are_stored(self) -> None:
        """The tracker may rename params and shorten long values, but must not lose params."""
        params = {f"group.key_{i}": i for i in range(250)} | ODD_PARAMS
        run_id = self._start(params=params)
        self.client.finish(END)
        if (kept := self.read_params(run_id)) is not None:
            assert len(kept) == len(params)
            assert str(kept["group.key_249"]) == "249"
            assert str(kept["long"]).startswith("x" * 1_000)

    def test_tags_are_stored_and_replaced(self) -> None:
        """New values replace old values; long values may be shortened."""
        run_id = self._start(tags={"first": "1", "second": "2"})
        changed = {"second": "zwei", "nntrain.outcome": "completed", "long": "x" * 20_000}
        if self._keeps("tags", lambda: self.client.set_tags(changed)):
            tags = self.read_tags(run_id)
            assert (tags["first"], tags["second"]) == ("1", "zwei")
            assert tags["nntrain.outcome"] == "completed"
            assert tags["long"].startswith("x" * 1_000)

    def test_tags_belong_to_one_run(self) -> None:
        """Tags do not carry over to the next run of the same client."""
        first = self._start()
        self._keeps("tags", lambda: self.client.set_tags({"which": "first"}))
        second = self._send([], uid=OTHER_UID)
        if self._overrides("tags"):
            assert self.read_tags(first)["which"] == "first"
            assert "which" not in self.read_tags(second)

    # --- optional kinds

    def test_histograms_are_stored_beside_the_metrics(self) -> None:
        """A histogram and a metric row can have the same step."""
        run_id = self._start()
        row, edges, counts = MetricRow(2_000, 1, {}), [0.0, 0.5, 1.0], {"act/head": [3.0, 4.0]}

        def send() -> None:
            self.client.metrics(rows_of([1.0]))
            self.client.histograms(row, edges, counts)
            self.client.metrics(rows_of([2.0], first=2))

        if self._keeps("histograms", send):
            assert self.read_histogram(run_id, "act/head") == [3.0, 4.0]
            self.check_series(run_id, "train/loss", [(1, 1.0), (2, 2.0)])

    def test_a_table_is_stored(self) -> None:
        """Cells can be numbers or strings."""
        run_id = self._start()
        if self._keeps("table", lambda: self.client.table(TABLE, 7)):
            assert self.read_table(run_id, TABLE.name) == (TABLE.columns, TABLE.rows)

    def test_a_figure_is_stored(self, tmp_path: Path) -> None:
        """The image is stored unchanged, under the figure name instead of the file name."""
        path, run_id = file_with(tmp_path / "1f.png", PNG), self._start()
        if self._keeps("figure", lambda: self.client.figure(path, "plots/loss.png", 7)):
            assert self.read_figure(run_id, "plots/loss.png") == PNG

    @pytest.mark.parametrize("name", ["notes.txt", "reports/best run/confusion é.csv"])
    def test_an_artifact_is_stored(self, tmp_path: Path, name: str) -> None:
        """The file is stored unchanged, under the artifact name instead of the file name."""
        path, run_id = file_with(tmp_path / "0007", b"a,b\n"), self._start()
        if self._keeps("artifact", lambda: self.client.artifact(path, name, ["best"])):
            assert self.read_artifact(run_id, name) == b"a,b\n"

    def test_the_weights_of_a_model_are_stored(self, tmp_path: Path) -> None:
        """The weights file is stored unchanged."""
        model = ModelFile(file_with(tmp_path / "0008.pt", b"weights"), "best.pt", ["best"])
        run_id = self._start()
        if self._keeps("model", lambda: self.client.model(model)):
            assert self.read_model(run_id, "best.pt") == b"weights"

    @pytest.mark.parametrize("kind", ["artifact", "figure"])
    def test_a_missing_file_is_refused(self, kind: str) -> None:
        """The error message contains the file name, and the run continues."""
        run_id, gone = self._start(), Path("gone.png")
        artifact, figure = self.client.artifact, self.client.figure
        send = {"artifact": lambda: artifact(gone, "a"), "figure": lambda: figure(gone, "a.png", 1)}
        error, text = (Refused, r"gone\.png") if self._overrides(kind) else (Unsupported, None)
        with pytest.raises(error, match=text):
            send[kind]()
        self.client.metrics(rows_of([2.0]))
        self.client.finish(END)
        self.check_series(run_id, "train/loss", [(1, 2.0)])

    # --- delivery

    def test_a_journal_is_delivered(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Unsupported records are counted, and each unsupported kind is logged once."""
        records = [*records_of(1, tmp_path), *records_of(5, tmp_path)]
        journal = append(tmp_path, [self._start_record(), *records, end_record(END)])
        with caplog.at_level(logging.INFO, "nntrain.shipper"):
            state = delivered(journal, self.tracker)
        lost = [kind for kind in OPTIONAL if not self._overrides(kind)]
        assert state.unsupported == dict.fromkeys(lost, 2)
        said = [record for record in caplog.records if record.name == "nntrain.shipper"]
        assert [record.getMessage() for record in said] == [
            f"tracker does not store {PLURALS[kind]}: they stay in the journal." for kind in lost
        ]
        self._check_delivered(state)

    def test_a_process_that_died_leaves_no_double_points(self, tmp_path: Path) -> None:
        """Simulates a process that died after sending records but before saving its progress."""
        journal = append(tmp_path, [self._start_record(), *records_of(1, tmp_path)])
        delivered(journal, self.tracker)
        state_path(journal, "tracker").unlink()
        append(tmp_path, [*records_of(5, tmp_path), end_record(END)])
        self._check_delivered(delivered(journal, self.restarted()))

    def _check_delivered(self, state: DeliveryState) -> None:
        assert (state.done, state.n_refused, state.notes) == (True, 0, [])
        assert state.run_id is not None
        assert self.read_runs() == [state.run_id]
        self.check_series(state.run_id, "train/loss", [(i, i / 2) for i in range(1, 9)])

    def _start_record(self) -> Record:
        specs = {"tracker": spec_of(self.tracker)}
        return start_record(RunInfo(uid=UID, name="a run", time_ms=500), specs)

    # --- helpers

    def _start(
        self,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        info = RunInfo(uid=UID, name="a run", params=params or {}, tags=tags or {}, time_ms=1_000)
        return self.client.start(info).run_id

    def _send(
        self,
        rows: Sequence[MetricRow],
        *,
        run_id: str | None = None,
        uid: str = UID,
        end: RunEnd = END,
    ) -> str:
        """Sends a complete run, but not rows that the tracker already has; returns the run id."""
        started = self.client.start(RunInfo(uid=uid, name="a run", time_ms=1_000), run_id)
        self.client.metrics(rows[started.rows or 0 :])
        self.client.finish(end)
        return started.run_id

    def _keeps(self, kind: str, send: Callable[[], None]) -> bool:
        """Calls `send`, expects `Unsupported` if the kind is not supported, and ends the run.

        Returns:
            Whether the client supports the kind.
        """
        if self._overrides(kind):
            send()
        else:
            with pytest.raises(Unsupported):
                send()
        self.client.finish(END)
        return self._overrides(kind)

    def _overrides(self, kind: str) -> bool:
        default = OPTIONAL[kind]
        return getattr(type(self.client), default.__name__) is not default


def rows_of(values: Sequence[float], first: int = 1, key: str = "train/loss") -> list[MetricRow]:
    """Returns rows with one metric, starting at step `first`."""
    return [MetricRow(1_000 + step, step, {key: value}) for step, value in enumerate(values, first)]


def delivered(journal: Path, tracker: Tracker) -> DeliveryState:
    """Delivers a complete journal, as a new process would; returns the delivery state."""
    delivery = Delivery(journal, "tracker", tracker)
    while delivery.advance():
        pass
    return delivery.state
