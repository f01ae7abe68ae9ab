"""What a test of a tracker defines: the settings, and how to read runs back from the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from nntrain.integrations.shipping.spec import spec_of, tracker_of
from nntrain.integrations.tracker import Tracker, TrackerClient
from nntrain.result import StopReason

Points = list[tuple[int, float]]
"""The steps and values of a metric."""


class TrackerStore:
    """The hooks of `TrackerContract`.

    Only the methods for what the client keeps are needed: a client that overrides `table` needs
    `read_table`. They read a run after its end, without nntrain. `tracker` holds the settings.
    """

    statuses: ClassVar[Mapping[StopReason, Any]]
    """The status of a run for each reason, as `read_status` returns it."""

    library: ClassVar[str] = ""
    """The module that only the client may import; empty if the tracker needs no library."""

    tracker: Tracker
    """The settings, resolved; set before each test."""

    client: TrackerClient
    """A client of the tracker; set before each test."""

    def make_tracker(self, folder: Path) -> Tracker:
        """Makes the settings of a tracker whose store is empty and below `folder`."""
        raise NotImplementedError(f"{type(self).__name__} must override make_tracker().")

    def read_runs(self) -> list[str]:
        """Reads the ids of all runs in the store."""
        raise NotImplementedError(f"{type(self).__name__} must override read_runs().")

    def read_series(self, run_id: str, key: str) -> Points:
        """Reads the steps and values of a metric, in the order of recording."""
        raise NotImplementedError(f"{type(self).__name__} must override read_series().")

    def read_status(self, run_id: str) -> Any:
        """Reads the status of a run."""
        raise NotImplementedError(f"{type(self).__name__} must override read_status().")

    def read_params(self, run_id: str) -> Mapping[str, Any] | None:
        """Reads the params of a run; `None` if the tracker does not keep params."""
        return None

    def read_tags(self, run_id: str) -> Mapping[str, str]:
        """Reads the tags of a run."""
        raise NotImplementedError(f"{type(self).__name__} must override read_tags().")

    def read_histogram(self, run_id: str, name: str) -> list[float]:
        """Reads the counts of the only histogram of that name."""
        raise NotImplementedError(f"{type(self).__name__} must override read_histogram().")

    def read_table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        """Reads the columns and rows of a table."""
        raise NotImplementedError(f"{type(self).__name__} must override read_table().")

    def read_figure(self, run_id: str, name: str) -> bytes:
        """Reads the image file of a figure."""
        raise NotImplementedError(f"{type(self).__name__} must override read_figure().")

    def read_artifact(self, run_id: str, name: str) -> bytes:
        """Reads a file."""
        raise NotImplementedError(f"{type(self).__name__} must override read_artifact().")

    def read_model(self, run_id: str, name: str) -> bytes:
        """Reads the file with the weights of a model."""
        raise NotImplementedError(f"{type(self).__name__} must override read_model().")

    def stored(self, value: float) -> float:
        """Returns the value as the store keeps it, for stores with less range or precision."""
        return value

    def restarted(self) -> Tracker:
        """Makes the settings again as another process does, from their spec."""
        package = type(self.tracker).__module__.partition(".")[0]
        return tracker_of(json.loads(json.dumps(spec_of(self.tracker))), [package])

    @pytest.fixture(autouse=True)
    def _connect(self, tmp_path: Path) -> None:
        self.tracker = self.make_tracker(tmp_path).resolved()
        self.client = self.tracker.connect()

    def check_series(self, run_id: str, key: str, expected: Points) -> None:
        """Asserts that a metric has these steps and values; NaN equals NaN."""
        series = self.read_series(run_id, key)
        assert [step for step, _ in series] == [step for step, _ in expected]
        values = [self.stored(value) for _, value in expected]
        np.testing.assert_array_equal([value for _, value in series], values)
