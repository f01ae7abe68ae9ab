"""With each storage, two workers run exactly the requested number of trials, numbered uniquely."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nntrain.sweeps.study.trials import owner_of
from tests.common.servers import POSTGRES_BIN, OptunaProxy, postgresql
from tests.sweeps.command_line import SweepCommand, assert_all_done

pytestmark = pytest.mark.slow

N = 40
"""The number of trials; docs/benchmarks.md has the results with 500."""


@pytest.fixture(params=["file", "sqlite", "postgresql", "grpc"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    match request.param:
        case "file":
            yield None
        case "sqlite":
            yield f"sqlite:///{tmp_path / 'study.db'}"
        case "postgresql":
            if POSTGRES_BIN is None and not os.environ.get("CI"):
                pytest.skip("PostgreSQL is not installed")
            with postgresql() as uri:
                yield uri
        case "grpc":
            with OptunaProxy(tmp_path / "proxy") as proxy:
                yield proxy.uri


def test_two_workers_share_the_trials(storage: str | None, tmp_path: Path) -> None:
    command = SweepCommand(
        tmp_path / "app", f"hydra.sweeper.n_trials={N}", "hydra.sweeper.n_jobs=2", storage=storage
    )
    done = command.run()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert_all_done(command, N)
    trials = command.trials()
    assert len(trials) == N
    assert len({owner_of(trial)["pid"] for trial in trials}) == 2
    assert sorted(
        int(path.name) for path in command.study_folder.iterdir() if path.name.isdigit()
    ) == list(range(N))
