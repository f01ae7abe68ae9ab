"""Runs all tests of trackers and shipping in the environment of a shipper process."""

import pytest

from nntrain.integrations.mlflow import CLIENT_SETTINGS


@pytest.fixture(autouse=True)
def _client_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the variables that `MLflowTracker.connect` adds, and removes them after the test."""
    for name, value in CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
