"""Each tracker of nntrain passes the tracker contract on a real store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from nntrain.integrations.memory import MemoryRun, MemoryTracker
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.tracker import (
    Tracker,
)
from nntrain.integrations.wandb import WandbTracker
from nntrain.result import StopReason
from nntrain.testing.tracker_store import Points
from nntrain.testing.trackers import LARGEST, TrackerContract
from tests.common.wandb_store import WandbRun, read_offline


class TestMemory(TrackerContract):
    statuses = {reason: reason for reason in StopReason}

    def make_tracker(self, folder: Path) -> MemoryTracker:
        return MemoryTracker()

    def restarted(self) -> Tracker:
        """Returns the same tracker, because another process cannot read its memory."""
        return self.tracker

    def run(self, run_id: str) -> MemoryRun:
        assert isinstance(self.tracker, MemoryTracker)
        return self.tracker.runs[run_id]

    def read_runs(self) -> list[str]:
        assert isinstance(self.tracker, MemoryTracker)
        return list(self.tracker.runs)

    def read_series(self, run_id: str, key: str) -> Points:
        return self.run(run_id).series(key)

    def read_status(self, run_id: str) -> Any:
        end = self.run(run_id).end
        return end and end.reason

    def read_params(self, run_id: str) -> Mapping[str, Any]:
        return self.run(run_id).params

    def read_tags(self, run_id: str) -> Mapping[str, str]:
        return self.run(run_id).tags

    def read_histogram(self, run_id: str, name: str) -> list[float]:
        ((_, _, counts),) = self.run(run_id).histograms
        return counts[name]

    def read_table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        table = self.run(run_id).tables[name]
        return list(table.columns), [list(row) for row in table.rows]

    def read_figure(self, run_id: str, name: str) -> bytes:
        return self.run(run_id).figures[name]

    def read_artifact(self, run_id: str, name: str) -> bytes:
        return self.run(run_id).artifacts[name]

    def read_model(self, run_id: str, name: str) -> bytes:
        return self.run(run_id).models[name].path.read_bytes()


class TestMLflow(TrackerContract):
    library = "mlflow"
    statuses = {
        StopReason.COMPLETED: "FINISHED",
        StopReason.EARLY_STOPPED: "FINISHED",
        StopReason.BUDGET: "FINISHED",
        StopReason.PRUNED: "KILLED",
        StopReason.DIVERGED: "FAILED",
        StopReason.INTERRUPTED: "KILLED",
        StopReason.ERROR: "FAILED",
        StopReason.OUT_OF_MEMORY: "FAILED",
    }

    @pytest.fixture(autouse=True)
    def _store(self, store_uri: str) -> None:
        self.uri = store_uri

    @pytest.fixture(autouse=True)
    def _connect(self, _store: None, tmp_path: Path) -> None:
        self.tracker = self.make_tracker(tmp_path).resolved()
        self.client = self.tracker.connect()

    def make_tracker(self, folder: Path) -> MLflowTracker:
        return MLflowTracker(self.uri)

    @property
    def store(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def read_runs(self) -> list[str]:
        experiments = [experiment.experiment_id for experiment in self.store.search_experiments()]
        return [run.info.run_id for run in self.store.search_runs(experiments)]

    def read_series(self, run_id: str, key: str) -> Points:
        return [(point.step, point.value) for point in self.store.get_metric_history(run_id, key)]

    def read_status(self, run_id: str) -> Any:
        return self.store.get_run(run_id).info.status

    def read_params(self, run_id: str) -> Mapping[str, Any]:
        return dict(self.store.get_run(run_id).data.params)

    def read_tags(self, run_id: str) -> Mapping[str, str]:
        return dict(self.store.get_run(run_id).data.tags)

    def read_table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        table = json.loads(self.read_artifact(run_id, f"{name}.json"))
        return table["columns"], table["data"]

    def read_figure(self, run_id: str, name: str) -> bytes:
        return self.read_artifact(run_id, name)

    def read_artifact(self, run_id: str, name: str) -> bytes:
        return Path(self.store.download_artifacts(run_id, name)).read_bytes()

    def read_model(self, run_id: str, name: str) -> bytes:
        return self.read_artifact(run_id, name)

    def stored(self, value: float) -> float:
        return max(min(value, LARGEST), -LARGEST) if value == value else value


@pytest.mark.slow
class TestWandb(TrackerContract):
    """Tests the W&B tracker with offline runs."""

    library = "wandb"
    statuses = {
        StopReason.COMPLETED: 0,
        StopReason.EARLY_STOPPED: 0,
        StopReason.BUDGET: 0,
        StopReason.PRUNED: 0,
        StopReason.DIVERGED: 1,
        StopReason.INTERRUPTED: 130,
        StopReason.ERROR: 1,
        StopReason.OUT_OF_MEMORY: 1,
    }

    def make_tracker(self, folder: Path) -> WandbTracker:
        self.folder = folder
        return WandbTracker(mode="offline", dir=str(folder))

    def run(self, run_id: str) -> WandbRun:
        return read_offline(self.folder, run_id)

    def read_runs(self) -> list[str]:
        return [path.name.split("-")[3] for path in (self.folder / "wandb").glob("offline-run-*")]

    def read_series(self, run_id: str, key: str) -> Points:
        return self.run(run_id).series(key)

    def read_status(self, run_id: str) -> Any:
        return self.run(run_id).exit_code

    def read_params(self, run_id: str) -> Mapping[str, Any]:
        return self.run(run_id).params

    def read_tags(self, run_id: str) -> Mapping[str, str]:
        return self.run(run_id).tags

    def read_histogram(self, run_id: str, name: str) -> list[float]:
        (counts,) = (
            row[f"{name}.values"] for row in self.run(run_id).history if f"{name}.values" in row
        )
        return list(counts)

    def read_table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        table = json.loads(self.media(run_id, name))
        return table["columns"], table["data"]

    def read_figure(self, run_id: str, name: str) -> bytes:
        return self.media(run_id, name.removesuffix(".png"))

    def media(self, run_id: str, key: str) -> bytes:
        run = self.run(run_id)
        (path,) = (row[f"{key}.path"] for row in run.history if f"{key}.path" in row)
        return (run.folder / "files" / path).read_bytes()

    def read_artifact(self, run_id: str, name: str) -> bytes:
        kept = self.run(run_id).artifacts
        contents = [entry for artifact in kept for entry in artifact.manifest.contents]
        (path,) = (entry.local_path for entry in contents if entry.path == name)
        return Path(path).read_bytes()

    def read_model(self, run_id: str, name: str) -> bytes:
        return self.read_artifact(run_id, name)
