"""Runs all tests of trackers and shipping with the environment variables of a shipper process."""

import pytest

from nntrain.integrations.mlflow import CLIENT_SETTINGS


@pytest.fixture(autouse=True)
def _client_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the environment variables that `connect` adds, and removes them after each test."""
    for name, value in CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
