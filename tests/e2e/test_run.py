"""Training on the real command line with a real MLflow store."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.common.cli import nntrain_run
from tests.common.mlflow_store import only_run

pytestmark = pytest.mark.slow


def steps(client: MlflowClient, run: Run, key: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, key)]


def test_the_default_reaches_95_percent_and_shows_how_to_open_the_run(
    default_run: tuple[Path, str],
) -> None:
    folder, output = default_run
    _, run = only_run(folder)
    assert run.data.metrics["valid/accuracy"] >= 0.95
    assert f"MLflow run:      {run.info.run_name}," in output
    assert "mlflow ui" in output
    (best,) = folder.glob("outputs/*/*/best.pt")
    assert f"files:           {best.parent}" in output


def test_every_batch_and_epoch_is_in_the_store(default_run: tuple[Path, str]) -> None:
    client, run = only_run(default_run[0])
    n_epoch = int(run.data.params["n_epoch"])
    n_train = steps(client, run, "train/loss")[0]
    all_batches = list(range(1, n_epoch * n_train + 1))
    for key in ("batch/loss", "batch/loss_smooth", "lr/0", "mom/0"):
        assert steps(client, run, key) == all_batches
    for key in (
        "epoch",
        "train/loss",
        "valid/loss",
        "train/accuracy",
        "valid/accuracy",
        "time/epoch_s",
        "time/batch_ms",
    ):
        assert steps(client, run, key) == list(range(n_train, n_epoch * n_train + 1, n_train))


def test_activation_statistics_of_every_layer_are_in_the_store(
    default_run: tuple[Path, str],
) -> None:
    client, run = only_run(default_run[0])
    every = int(run.data.params["callbacks.activation_stats.every"])
    layers = {key.split("/")[1] for key in run.data.metrics if key.startswith("act/")}
    assert len(layers) >= 3
    for layer in layers:
        for kind in ("mean", "std", "dead_frac", "max_abs"):
            found = steps(client, run, f"act/{layer}/{kind}")
            assert found == list(range(1, steps(client, run, "batch/loss")[-1] + 1, every))


def test_params_tags_and_artifacts_are_in_the_store(default_run: tuple[Path, str]) -> None:
    folder, _ = default_run
    client, run = only_run(folder)
    assert run.info.status == "FINISHED"
    assert run.data.params["model._target_"] == "nntrain.models.mlp"
    assert run.data.params["seed"] == "42"
    tags = run.data.tags
    assert tags["nntrain.outcome"] == "completed"
    assert tags["nntrain.command"] == "python -m nntrain.run"
    assert tags["nntrain.version.torch"] == torch.__version__
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    plots = {file.path for file in client.list_artifacts(run.info.run_id, "plots")}
    assert {"config.yaml", "overrides.yaml", "best.pt", "plots"} <= files
    expected = {"loss", "lr", "activations", "activation_histograms", "dead_units"}
    assert plots == {f"plots/{name}.png" for name in expected}
    for name in plots:
        assert (
            Path(client.download_artifacts(run.info.run_id, name, str(folder))).stat().st_size
            > 5_000
        )


def test_the_best_model_loads_as_plain_tensors(default_run: tuple[Path, str]) -> None:
    (best,) = default_run[0].glob("outputs/*/*/best.pt")
    state = torch.load(best, weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_git_commit_and_dirty_flag_are_tags(tmp_path: Path) -> None:
    import subprocess

    def git(*args: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *identity, *args]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "code.py").write_text("a = 2\n")
    assert nntrain_run("n_epoch=1", cwd=tmp_path).returncode == 0
    _, run = only_run(tmp_path)
    assert (
        run.data.tags["nntrain.git.commit"]
        == git("rev-parse", "HEAD")
        == run.data.tags["mlflow.source.git.commit"]
    )
    assert run.data.tags["nntrain.git.dirty"] == "true"


def losses_printed(output: str) -> list[str]:
    """Returns the rows of the printed table without the column of times, which always differ."""
    return [
        re.sub(r"\s+\S+$", "", line) for line in output.splitlines() if re.match(r"\s+\d+\s", line)
    ]


def test_the_same_seed_gives_the_same_weights_with_and_without_tracking(
    default_run: tuple[Path, str], tmp_path: Path
) -> None:
    done = nntrain_run("tracker=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert losses_printed(done.stdout) == losses_printed(default_run[1])
    assert len(losses_printed(done.stdout)) == 12
    (tracked,) = default_run[0].glob("outputs/*/*/best.pt")
    (untracked,) = tmp_path.glob("outputs/*/*/best.pt")
    ours, theirs = (
        torch.load(tracked, weights_only=True)["model"],
        torch.load(untracked, weights_only=True)["model"],
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_resumed_run_continues_the_same_mlflow_run(
    default_run: tuple[Path, str], tmp_path: Path
) -> None:
    """Resumes a completed run with more epochs; other tests resume interrupted runs."""
    shutil.copytree(default_run[0], tmp_path / "again")
    (folder,) = (tmp_path / "again").glob("outputs/*/*")
    done = nntrain_run("n_epoch=13", f"resume={folder}", cwd=tmp_path / "again")
    assert done.returncode == 0, done.stderr
    client, run = only_run(tmp_path / "again")
    found = steps(client, run, "batch/loss")
    assert found == list(range(1, len(found) + 1))
    assert steps(client, run, "epoch")[-1] == found[-1]


USER_PACKAGE = """
import torch
from torch import nn
from nntrain import Callback
from nntrain.data import DataLoaders

class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(torch.relu(self.layer(x)))

def data(n: int = 64):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    return DataLoaders.from_tensors((x, y), (x, y), batch_size=16)

class Greet(Callback):
    def after_fit(self, learn):
        print("greetings after", learn.train_iter)
"""


def test_a_users_package_can_define_model_data_and_callbacks(tmp_path: Path) -> None:
    (tmp_path / "my_package.py").write_text(USER_PACKAGE)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "net.yaml").write_text(
        "_target_: my_package.Net\n# units\nwidth: 8\n"
    )
    (tmp_path / "my_conf" / "data").mkdir()
    (tmp_path / "my_conf" / "data" / "mine.yaml").write_text("_target_: my_package.data\n")
    args = [
        "--config-dir",
        "my_conf",
        "model=net",
        "data=mine",
        "trusted_targets=[my_package]",
        "n_epoch=2",
        "tracker=none",
    ]
    done = nntrain_run(*args, "+callbacks.greet._target_=my_package.Greet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "greetings after 8" in done.stdout


def test_help_names_groups_keys_and_examples(tmp_path: Path) -> None:
    done = nntrain_run("--help", cwd=tmp_path)
    assert done.returncode == 0
    for text in (
        "model: autoencoder, cnn, mlp, resnet",
        "n_epoch",
        "trusted_targets",
        "Tab completion",
        "-m nntrain.run",
    ):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_whole_configuration(tmp_path: Path) -> None:
    done = nntrain_run("--cfg", "job", "model=cnn", cwd=tmp_path)
    assert done.returncode == 0
    assert "_target_: nntrain.models.cnn" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_importing_nntrain_does_not_import_other_libraries(tmp_path: Path) -> None:
    import subprocess
    import sys

    heavy = [
        "hydra",
        "mlflow",
        "wandb",
        "optuna",
        "torchmetrics",
        "matplotlib",
        "rich",
        "sklearn",
        "datasets",
        "omegaconf",
    ]
    code = f"import sys, nntrain; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
