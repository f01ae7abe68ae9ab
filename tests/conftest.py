"""Every test runs in a folder of its own, seeded, on one thread, away from the user's settings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nntrain.rng import seed_everything

os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seed_everything(0)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("slow", "browser")))


pytest_plugins = ["tests.common.mlflow_store"]
