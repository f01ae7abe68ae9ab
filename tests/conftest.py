"""Runs each test in a new folder, with a fixed seed, on one thread, without the user's settings."""

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nntrain.config.redact import forget
from nntrain.core.rng import seed_everything
from tests.common.repeats import REPEATS

os.environ.setdefault("MPLBACKEND", "agg")

# A shell without job control starts background commands with SIGINT ignored. Every process that a
# test starts would inherit this, and the tests of Ctrl-C would fail.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# the same for SIGHUP, which `nohup` ignores
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A shipper has the lowest priority. On Linux, priorities apply only within a session, and CPU time
# is first divided among the sessions. Each worker therefore gets its own session, as a user's
# training does, and its shipper does not slow down its tests.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.setsid()


@pytest.fixture(autouse=True)
def _isolated(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    forget()  # secrets of other tests
    # the developer's own trust.yaml has no effect
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
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


@pytest.fixture(scope="session")
def repeat() -> int:
    """The index of the repeat, if `NNTRAIN_TEST_REPEATS` is set; a seed for random faults."""
    return 0


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Records a figure, which is shown after the tests if `NNTRAIN_TEST_REPEATS` is set."""

    def record(name: str, value: float) -> None:
        request.node.user_properties.append((name, value))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the figures of all repeats of a test in one line."""
    figures: dict[str, list[float]] = defaultdict(list)
    for report in terminalreporter.stats.get("passed", []) if REPEATS > 1 else []:
        for name, value in report.user_properties:
            figures[f"{report.nodeid.partition('[')[0]} {name}"].append(value)
    for name, values in figures.items():
        shown = " ".join(f"{value:.4g}" for value in values)
        terminalreporter.write_line(f"{name}: n={len(values)} max={max(values):.4g}: {shown}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each test `NNTRAIN_TEST_REPEATS` times."""
    if REPEATS > 1:
        if "repeat" not in metafunc.fixturenames:
            metafunc.fixturenames.append("repeat")
        metafunc.parametrize("repeat", range(REPEATS), scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs fast tests first."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("slow", "browser")))


pytest_plugins = ["tests.common.mlflow_store"]
