"""What every tracker promises, each on its real store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.shipping.spec import node_of, tracker_of
from nntrain.integrations.tracker import MetricRow, Refused, RunEnd, RunInfo, Table, Tracker
from nntrain.integrations.wandb import WandbTracker
from nntrain.result import StopReason
from tests.common.wandb_store import read_offline

NAN, INF = float("nan"), float("inf")
LARGEST = float(np.finfo(np.float64).max)

UID, OTHER_UID = "0123456789abcdef", "fedcba9876543210"
END = RunEnd(StopReason.COMPLETED, time_ms=9_000)
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
    + (b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82")
)


class Store(Protocol):
    """Where the runs of a tracker are, read back without it; one that was given is the same each time."""

    tracker: Tracker
    statuses: dict[str, Any]
    extremes: dict[float, float]

    def runs(self) -> list[str]: ...
    def series(self, run_id: str, key: str) -> list[tuple[int, float]]: ...
    def tags(self, run_id: str) -> dict[str, str]: ...
    def params(self, run_id: str) -> dict[str, Any]: ...
    def status(self, run_id: str) -> Any: ...
    def table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]: ...
    def figure(self, run_id: str, name: str) -> bytes: ...
    def artifact(self, run_id: str, name: str) -> bytes: ...


@dataclass
class InMemory:
    tracker: MemoryTracker

    statuses = {reason.value: reason for reason in StopReason}
    extremes = {INF: INF, -INF: -INF}

    def runs(self) -> list[str]:
        return list(self.tracker.runs)

    def series(self, run_id: str, key: str) -> list[tuple[int, float]]:
        return self.tracker.runs[run_id].series(key)

    def tags(self, run_id: str) -> dict[str, str]:
        return self.tracker.runs[run_id].tags

    def params(self, run_id: str) -> dict[str, Any]:
        return self.tracker.runs[run_id].params

    def status(self, run_id: str) -> Any:
        end = self.tracker.runs[run_id].end
        return end and end.reason

    def table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        table = self.tracker.runs[run_id].tables[name]
        return list(table.columns), [list(row) for row in table.rows]

    def figure(self, run_id: str, name: str) -> bytes:
        return self.tracker.runs[run_id].figures[name]

    def artifact(self, run_id: str, name: str) -> bytes:
        return self.tracker.runs[run_id].artifacts[name]


@dataclass
class InMLflow:
    tracker: MLflowTracker

    statuses = {
        "completed": "FINISHED",
        "early_stopped": "FINISHED",
        "budget": "FINISHED",
        "pruned": "KILLED",
        "diverged": "FAILED",
        "interrupted": "KILLED",
        "error": "FAILED",
        "out_of_memory": "FAILED",
    }
    extremes = {INF: LARGEST, -INF: -LARGEST}

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracker.uri)

    def runs(self) -> list[str]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return [run.info.run_id for run in self.client.search_runs(experiments)]

    def series(self, run_id: str, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run_id, key)]

    def tags(self, run_id: str) -> dict[str, str]:
        return dict(self.client.get_run(run_id).data.tags)

    def params(self, run_id: str) -> dict[str, Any]:
        return dict(self.client.get_run(run_id).data.params)

    def status(self, run_id: str) -> Any:
        return self.client.get_run(run_id).info.status

    def table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        table = json.loads(self.artifact(run_id, f"{name}.json"))
        return table["columns"], table["data"]

    def figure(self, run_id: str, name: str) -> bytes:
        return self.artifact(run_id, name)

    def artifact(self, run_id: str, name: str) -> bytes:
        return Path(self.client.download_artifacts(run_id, name)).read_bytes()


@dataclass
class InWandb:
    """An offline run is read when it has ended."""

    tracker: WandbTracker

    statuses = {
        "completed": 0,
        "early_stopped": 0,
        "budget": 0,
        "pruned": 0,
        "diverged": 1,
        "interrupted": 130,
        "error": 1,
        "out_of_memory": 1,
    }
    extremes = {INF: INF, -INF: -INF}

    @property
    def folder(self) -> Path:
        return Path(self.tracker.dir or "")

    def runs(self) -> list[str]:
        return [path.name.split("-")[3] for path in (self.folder / "wandb").glob("offline-run-*")]

    def series(self, run_id: str, key: str) -> list[tuple[int, float]]:
        return read_offline(self.folder, run_id).series(key)

    def tags(self, run_id: str) -> dict[str, str]:
        return read_offline(self.folder, run_id).tags

    def params(self, run_id: str) -> dict[str, Any]:
        return read_offline(self.folder, run_id).params

    def status(self, run_id: str) -> Any:
        return read_offline(self.folder, run_id).exit_code

    def table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        table = json.loads(self._media(run_id, name))
        return table["columns"], table["data"]

    def figure(self, run_id: str, name: str) -> bytes:
        return self._media(run_id, name.removesuffix(".png"))

    def _media(self, run_id: str, key: str) -> bytes:
        run = read_offline(self.folder, run_id)
        (path,) = (row[f"{key}.path"] for row in run.history if f"{key}.path" in row)
        return (run.folder / "files" / path).read_bytes()

    def artifact(self, run_id: str, name: str) -> bytes:
        contents = [
            entry
            for kept in read_offline(self.folder, run_id).artifacts
            for entry in kept.manifest.contents
        ]
        (path,) = (entry.local_path for entry in contents if entry.path == name)
        return Path(path).read_bytes()


@pytest.fixture
def memory() -> InMemory:
    return InMemory(MemoryTracker())


@pytest.fixture
def mlflow(store_uri: str) -> InMLflow:
    return InMLflow(MLflowTracker(store_uri).settled())


@pytest.fixture
def wandb(tmp_path: Path) -> InWandb:
    return InWandb(WandbTracker(mode="offline", dir=str(tmp_path)).settled())


TRACKERS = ["memory", "mlflow", pytest.param("wandb", marks=pytest.mark.slow)]


@pytest.fixture(params=TRACKERS)
def store(request: pytest.FixtureRequest) -> Store:
    made: Store = request.getfixturevalue(request.param)
    return made


def again(store: Store) -> Tracker:
    """The tracker of another process with the same settings; a tracker in memory has no other."""
    return (
        store.tracker
        if isinstance(store.tracker, MemoryTracker)
        else tracker_of(node_of(store.tracker))
    )


def deliver(
    tracker: Tracker, rows: Sequence[MetricRow], run_id: str | None = None, uid: str = UID
) -> str:
    """Begins a run and hands over rows, less those that the tracker says it holds; returns the run's id."""
    started = tracker.start(RunInfo(uid=uid, name="a run", time_ms=1_000), run_id)
    tracker.metrics(rows[started.rows or 0 :])
    return started.run_id


def rows_of(values: Sequence[float], first: int = 1, key: str = "train/loss") -> list[MetricRow]:
    return [MetricRow(1_000 + step, step, {key: value}) for step, value in enumerate(values, first)]


def assert_equal(
    actual: Sequence[tuple[int, float]], expected: Sequence[tuple[int, float]]
) -> None:
    """The same steps and values, bit for bit; NaN equals NaN."""
    assert [step for step, _ in actual] == [step for step, _ in expected]
    np.testing.assert_array_equal([value for _, value in actual], [value for _, value in expected])


def test_it_keeps_the_contract(store: Store) -> None:
    assert isinstance(store.tracker, Tracker)
    assert isinstance(store.tracker.settled(), type(store.tracker))


def test_its_settings_make_it_again(store: Store) -> None:
    settled = store.tracker.settled()
    copy = tracker_of(node_of(settled))
    assert node_of(copy) == node_of(settled)
    assert node_of(copy.settled()) == node_of(settled)


def test_a_run_that_is_started_twice_is_one_run(store: Store) -> None:
    first = store.tracker.start(RunInfo(uid=UID))
    second = again(store).start(RunInfo(uid=UID))
    assert second.run_id == first.run_id
    store.tracker.finish(END)
    assert store.runs() == [first.run_id]


def test_it_says_where_the_run_is(store: Store) -> None:
    started = store.tracker.start(RunInfo(uid=UID, name="a run"))
    assert "a run" in started.where
    assert len(started.where.splitlines()) <= 3
    store.tracker.finish(END)


def test_rows_are_kept_whole_and_in_order(store: Store) -> None:
    rows = [
        MetricRow(1_000 + i, i, {"batch/loss": i / 7, "lr/group0": 10.0**-i})
        for i in range(1, 1201)
    ]
    run_id = deliver(store.tracker, rows)
    store.tracker.finish(END)
    assert_equal(store.series(run_id, "batch/loss"), [(i, i / 7) for i in range(1, 1201)])
    assert_equal(store.series(run_id, "lr/group0"), [(i, 10.0**-i) for i in range(1, 1201)])


def test_a_row_may_hold_other_keys_than_the_one_before_and_no_row_is_no_error(store: Store) -> None:
    run_id = deliver(
        store.tracker,
        [MetricRow(1, 1, {"a": 1.0}), MetricRow(2, 2, {"b": 2.0}), MetricRow(3, 3, {"a": 3.0})],
    )
    store.tracker.metrics([])
    store.tracker.finish(END)
    assert_equal(store.series(run_id, "a"), [(1, 1.0), (3, 3.0)])
    assert_equal(store.series(run_id, "b"), [(2, 2.0)])


@pytest.mark.parametrize("value", [NAN, INF, -INF, -0.0, LARGEST, 5e-324])
def test_values_at_the_edge_of_the_floats_are_kept(store: Store, value: float) -> None:
    run_id = deliver(store.tracker, rows_of([1.0, value]))
    store.tracker.finish(END)
    assert_equal(
        store.series(run_id, "train/loss"), [(1, 1.0), (2, store.extremes.get(value, value))]
    )


def test_the_same_rows_twice_change_nothing(store: Store) -> None:
    rows = rows_of([3.0, NAN, INF, 2.0])
    run_id = deliver(store.tracker, rows)
    deliver(again(store), rows, run_id)
    store.tracker.finish(END)
    assert [step for step, _ in store.series(run_id, "train/loss")] == [1, 2, 3, 4]


def test_a_step_may_come_again_or_go_back(store: Store) -> None:
    rows = [
        MetricRow(1_000, 5, {"a": 1.0}),
        MetricRow(1_001, 5, {"a": 2.0}),
        MetricRow(1_002, 3, {"a": 3.0}),
    ]
    run_id = deliver(store.tracker, rows)
    store.tracker.finish(END)
    assert sorted(store.series(run_id, "a")) == [(3, 3.0), (5, 1.0), (5, 2.0)]


@pytest.mark.parametrize("key", ["train/loss", "a b", "x/y.z-1:2", "perdita/é", "k" * 250])
def test_odd_names_are_kept_as_they_are(store: Store, key: str) -> None:
    run_id = deliver(store.tracker, rows_of([1.0, 2.0], key=key))
    store.tracker.finish(END)
    assert_equal(store.series(run_id, key), [(1, 1.0), (2, 2.0)])


def test_tags_are_kept_and_changed(store: Store) -> None:
    run_id = store.tracker.start(RunInfo(uid=UID, tags={"first": "1", "second": "2"})).run_id
    store.tracker.set_tags({"second": "zwei", "nntrain.outcome": "completed", "long": "x" * 20_000})
    store.tracker.finish(END)
    tags = store.tags(run_id)
    assert (tags["first"], tags["second"], tags["nntrain.outcome"]) == ("1", "zwei", "completed")
    assert tags["long"].startswith("x" * 1_000)


def test_params_are_kept_whatever_they_are(store: Store) -> None:
    odd = {
        "long": "x" * 100_000,
        "": 1,
        "../up": 2,
        "a=b": 3,
        "a#b": 4,
        "nul": "\0",
        "none": None,
        "list": [1, "é"],
    }
    params = {f"group.key_{i}": i for i in range(250)} | odd
    run_id = store.tracker.start(RunInfo(uid=UID, params=params)).run_id
    store.tracker.finish(END)
    kept = store.params(run_id)
    assert len(kept) == len(params)
    assert str(kept["group.key_249"]) == "249"
    assert str(kept["long"]).startswith("x" * 1_000)


def test_a_table_is_read_back(store: Store) -> None:
    run_id = store.tracker.start(RunInfo(uid=UID)).run_id
    store.tracker.table(Table("confusion/pairs", ["digit", "n"], [["three", 3], ["é", 4.5]]), 7)
    store.tracker.finish(END)
    assert store.table(run_id, "confusion/pairs") == (["digit", "n"], [["three", 3], ["é", 4.5]])


def test_a_figure_is_read_back(store: Store, tmp_path: Path) -> None:
    (tmp_path / "1f.png").write_bytes(PNG)
    run_id = store.tracker.start(RunInfo(uid=UID)).run_id
    store.tracker.figure(tmp_path / "1f.png", "plots/loss.png", 7)
    store.tracker.finish(END)
    assert store.figure(run_id, "plots/loss.png") == PNG


@pytest.mark.parametrize("name", ["notes.txt", "reports/best run/confusion é.csv"])
def test_an_artifact_is_kept_under_its_name(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "0007").write_bytes(b"a,b\n")
    run_id = store.tracker.start(RunInfo(uid=UID)).run_id
    store.tracker.artifact(tmp_path / "0007", name, ["best"])
    store.tracker.finish(END)
    assert store.artifact(run_id, name) == b"a,b\n"


def test_histograms_are_taken_or_left(store: Store) -> None:
    run_id = deliver(store.tracker, rows_of([1.0]))
    store.tracker.histograms(MetricRow(2_000, 1, {}), [0.0, 0.5, 1.0], {"act/head": [3.0, 4.0]})
    store.tracker.metrics(rows_of([2.0], first=2))
    store.tracker.finish(END)
    assert_equal(store.series(run_id, "train/loss"), [(1, 1.0), (2, 2.0)])


@pytest.mark.parametrize("reason", list(StopReason))
def test_the_status_is_that_of_the_outcome_table(store: Store, reason: StopReason) -> None:
    run_id = deliver(store.tracker, rows_of([1.0]))
    store.tracker.finish(RunEnd(reason, "why", time_ms=9_000))
    assert store.status(run_id) == store.statuses[reason.value]


def test_a_run_goes_on_after_its_end(store: Store) -> None:
    rows = rows_of([4.0, 3.0, 2.0, 1.0])
    run_id = deliver(store.tracker, rows[:2])
    store.tracker.finish(RunEnd(StopReason.INTERRUPTED, time_ms=5_000))
    resumed = again(store)
    assert deliver(resumed, rows, run_id) == run_id
    resumed.finish(END)
    assert store.runs() == [run_id]
    assert_equal(store.series(run_id, "train/loss"), [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)])
    assert store.status(run_id) == store.statuses["completed"]


def test_two_runs_one_after_the_other_do_not_mix(store: Store) -> None:
    first = deliver(store.tracker, rows_of([1.0, 2.0]))
    store.tracker.set_tags({"which": "first"})
    store.tracker.finish(END)
    second = deliver(store.tracker, rows_of([3.0]), uid=OTHER_UID)
    store.tracker.finish(RunEnd(StopReason.ERROR, time_ms=9_000))
    assert sorted(store.runs()) == sorted([first, second])
    assert_equal(store.series(first, "train/loss"), [(1, 1.0), (2, 2.0)])
    assert_equal(store.series(second, "train/loss"), [(1, 3.0)])
    assert store.tags(first)["which"] == "first"
    assert "which" not in store.tags(second)
    assert (store.status(first), store.status(second)) == (
        store.statuses["completed"],
        store.statuses["error"],
    )


@pytest.mark.parametrize("kind", ["artifact", "figure"])
def test_a_file_that_is_gone_is_refused_and_the_rest_is_kept(store: Store, kind: str) -> None:
    run_id = deliver(store.tracker, rows_of([1.0]))
    send = store.tracker.artifact if kind == "artifact" else partial(store.tracker.figure, step=1)
    with pytest.raises(Refused, match=r"gone\.png"):
        send(Path("gone.png"), "gone.png")
    store.tracker.metrics(rows_of([2.0], first=2))
    store.tracker.finish(END)
    assert_equal(store.series(run_id, "train/loss"), [(1, 1.0), (2, 2.0)])
