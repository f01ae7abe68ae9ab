"""Every test of trackers and shipping has the environment of a shipper process."""

import pytest

from nntrain.integrations.mlflow import CLIENT_SETTINGS


@pytest.fixture(autouse=True)
def _client_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what `MLflowTracker.connect` adds, so that it does not leak into other tests."""
    for name, value in CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
