"""Runs each test in a new folder, with a fixed seed, on one thread, without the user's settings."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nntrain.core.rng import seed_everything

os.environ.setdefault("MPLBACKEND", "agg")

# A shell without job control starts background commands with SIGINT ignored. Every process that a
# test starts would inherit this, and the tests of Ctrl-C would fail.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shipper has the lowest priority. On Linux, priorities apply only within a session, and CPU time
# is first divided among the sessions. Each worker therefore gets its own session, as a user's
# training does, and its shipper does not slow down its tests.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.setsid()


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_RUN_ID",
        "HYDRA_FULL_ERROR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seed_everything(0)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs fast tests first."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("slow", "browser")))


pytest_plugins = ["tests.common.mlflow_store"]
