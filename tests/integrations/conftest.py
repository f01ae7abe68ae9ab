"""The environment of a process that delivers, for every test of trackers and shipping."""

import pytest

from nntrain.integrations.mlflow import CLIENT_SETTINGS


@pytest.fixture(autouse=True)
def _client_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`MLflowTracker.connect` adds these, and no test may leave them to the next one."""
    for name, value in CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
