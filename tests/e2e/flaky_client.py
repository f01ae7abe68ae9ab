"""The clients of the trackers in `tests.e2e.user`; only the shipper needs mlflow."""

import time
from collections.abc import Sequence
from typing import ClassVar

from nntrain.integrations.mlflow.client import MLflowTrackerClient
from nntrain.integrations.tracker import MetricRow


class FlakyClient(MLflowTrackerClient):
    """Raises in every third call of `metrics`, alternately before and after it sends the rows."""

    n_call: ClassVar[int] = 0

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        FlakyClient.n_call += 1
        errors = (ValueError("first"), OSError("second"), RuntimeError("third"))
        if FlakyClient.n_call % 3 != 1:
            super().metrics(rows)
        else:
            nth = FlakyClient.n_call // 3
            if nth % 2:
                super().metrics(rows)
            raise errors[nth % 3]


class SlowClient(MLflowTrackerClient):
    """Needs 50 ms more for each call of `metrics`."""

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        time.sleep(0.05)
        super().metrics(rows)
