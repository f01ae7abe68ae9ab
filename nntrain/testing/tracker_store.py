"""The hooks that a `TrackerContract` test overrides."""

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
"""A list of (step, value) pairs of a metric."""


class TrackerStore:
    """The hooks of `TrackerContract`.

    A `read_*` method reads data from the store of the tracker after the run has ended, without
    nntrain. Override only the methods that the client needs. For example, a client that overrides
    `table` needs `read_table`.
    """

    statuses: ClassVar[Mapping[StopReason, Any]]
    """The expected return value of `read_status` for each stop reason."""

    library: ClassVar[str] = ""
    """The library that only the client may import; empty if the tracker does not use a library."""

    tracker: Tracker
    """The resolved tracker; set before each test."""

    client: TrackerClient
    """A connected client of the tracker; set before each test."""

    def make_tracker(self, folder: Path) -> Tracker:
        """Returns a tracker with an empty store inside `folder`."""
        raise NotImplementedError(f"{type(self).__name__} must override make_tracker().")

    def read_runs(self) -> list[str]:
        """Returns the ids of all runs in the store."""
        raise NotImplementedError(f"{type(self).__name__} must override read_runs().")

    def read_series(self, run_id: str, key: str) -> Points:
        """Returns the steps and values of a metric, in the order in which they were recorded."""
        raise NotImplementedError(f"{type(self).__name__} must override read_series().")

    def read_status(self, run_id: str) -> Any:
        """Returns the status of a run."""
        raise NotImplementedError(f"{type(self).__name__} must override read_status().")

    def read_params(self, run_id: str) -> Mapping[str, Any] | None:
        """Returns the params of a run, or `None` if the tracker does not store params."""
        return None

    def read_tags(self, run_id: str) -> Mapping[str, str]:
        """Returns the tags of a run."""
        raise NotImplementedError(f"{type(self).__name__} must override read_tags().")

    def read_histogram(self, run_id: str, name: str) -> list[float]:
        """Returns the counts of the only histogram with this name."""
        raise NotImplementedError(f"{type(self).__name__} must override read_histogram().")

    def read_table(self, run_id: str, name: str) -> tuple[list[str], list[list[Any]]]:
        """Returns the columns and rows of a table."""
        raise NotImplementedError(f"{type(self).__name__} must override read_table().")

    def read_figure(self, run_id: str, name: str) -> bytes:
        """Returns the bytes of a figure's image file."""
        raise NotImplementedError(f"{type(self).__name__} must override read_figure().")

    def read_artifact(self, run_id: str, name: str) -> bytes:
        """Returns the bytes of an artifact."""
        raise NotImplementedError(f"{type(self).__name__} must override read_artifact().")

    def read_model(self, run_id: str, name: str) -> bytes:
        """Returns the bytes of a model's weights file."""
        raise NotImplementedError(f"{type(self).__name__} must override read_model().")

    def stored(self, value: float) -> float:
        """Returns the expected stored value; override this if the store changes extreme values."""
        return value

    def restarted(self) -> Tracker:
        """Creates the tracker again from its spec, as another process would."""
        package = type(self.tracker).__module__.partition(".")[0]
        return tracker_of(json.loads(json.dumps(spec_of(self.tracker))), [package])

    @pytest.fixture(autouse=True)
    def _connect(self, tmp_path: Path) -> None:
        self.tracker = self.make_tracker(tmp_path).resolved()
        self.client = self.tracker.connect()

    def check_series(self, run_id: str, key: str, expected: Points) -> None:
        """Asserts that a metric has the expected steps and values; treats NaN as equal to NaN."""
        series = self.read_series(run_id, key)
        assert [step for step, _ in series] == [step for step, _ in expected]
        values = [self.stored(value) for _, value in expected]
        np.testing.assert_array_equal([value for _, value in series], values)
