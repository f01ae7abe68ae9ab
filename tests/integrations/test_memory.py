"""The tracker that keeps runs in memory, for users' tests."""

import pytest

from nntrain.integrations.memory import MemoryClient, MemoryTracker
from nntrain.integrations.tracker import MetricRow, RunEnd, RunInfo
from nntrain.result import StopReason

INF = float("inf")


def started(uid: str = "a" * 16) -> tuple[MemoryTracker, MemoryClient]:
    tracker = MemoryTracker()
    client = tracker.connect()
    info = RunInfo(uid, "first", {"lr": 0.1}, tags={"team": "a"}, texts={"config.yaml": "lr: 0.1"})
    client.start(info)
    return tracker, client


def test_a_run_has_what_it_was_started_with() -> None:
    run = started()[0].run
    assert (run.id, run.info.name, run.params, run.tags) == (
        "a" * 16,
        "first",
        {"lr": 0.1},
        {"team": "a"},
    )
    assert run.texts == {"config.yaml": "lr: 0.1"}
    assert run.end is None


def test_a_series_has_the_steps_and_values_of_one_key_in_order() -> None:
    tracker, client = started()
    client.metrics([MetricRow(1, 1, {"loss": 3.0, "lr": 0.1}), MetricRow(2, 2, {"lr": 0.2})])
    client.metrics([MetricRow(3, 5, {"loss": INF})])
    assert tracker.series("loss") == [(1, 3.0), (5, INF)]
    assert tracker.run.keys == {"loss", "lr"}
    assert tracker.series("acc") == []


@pytest.mark.parametrize("value", [1.0, INF, float("nan")])
def test_a_repeated_value_is_kept_once(value: float) -> None:
    tracker, client = started()
    client.metrics([MetricRow(1, 1, {"loss": value})])
    client.metrics([MetricRow(1, 1, {"loss": value, "lr": 0.1}), MetricRow(2, 1, {"loss": value})])
    assert [dict.fromkeys(row.values) for row in tracker.run.rows] == [
        {"loss": None},
        {"lr": None},
        {"loss": None},
    ]


def test_a_run_that_starts_again_has_not_ended() -> None:
    tracker, client = started()
    client.finish(RunEnd(StopReason.INTERRUPTED))
    assert tracker.run.end == RunEnd(StopReason.INTERRUPTED)
    client.start(RunInfo(uid="a" * 16, params={"lr": 0.2}))
    assert tracker.run.end is None
    assert (tracker.run.n_starts, tracker.run.params) == (2, {"lr": 0.2})
    assert list(tracker.runs) == ["a" * 16]


def test_each_run_without_a_uid_is_a_new_run() -> None:
    tracker = MemoryTracker()
    client = tracker.connect()
    ids = [client.start(RunInfo()).run_id for _ in range(3)]
    assert list(tracker.runs) == ids
    assert len(set(ids)) == 3


def test_a_tracker_without_a_run_raises() -> None:
    with pytest.raises(LookupError, match="has no run"):
        MemoryTracker().series("loss")


def test_all_clients_of_a_tracker_write_to_its_runs() -> None:
    tracker, client = started()
    other = tracker.connect()
    other.start(RunInfo(uid="b" * 16))
    client.metrics([MetricRow(1, 1, {"loss": 1.0})])
    assert tracker.run.id == "b" * 16
    assert tracker.runs["a" * 16].series("loss") == [(1, 1.0)]
    assert tracker.series("loss") == []


def test_a_client_that_was_not_started_raises() -> None:
    with pytest.raises(LookupError, match="call start first"):
        MemoryTracker().connect().metrics([MetricRow(1, 1, {"loss": 1.0})])
