"""Bad input on the real command line: one sentence, exit code 1, and no new files."""

from pathlib import Path

import pytest

from tests.common.cli import nntrain_run, tree, warm_nntrain_run

pytestmark = pytest.mark.slow

USER_DATA = """
import torch
from nntrain.data import DataLoaders
from torch.utils.data import Dataset

class Items(Dataset):
    def __init__(self, n, bad):
        self.n, self.bad = n, bad
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        x = torch.ones(64)
        return (x * float("nan") if self.bad else x), i % 10

def loaders(n: int, bad: bool = False, **kwargs):
    return DataLoaders.from_datasets(Items(n, bad), Items(20, False), **kwargs)
"""


def own(**keys: object) -> list[str]:
    """Returns overrides that load the data with the user's module."""
    node = ", ".join(["_target_: own.loaders", *(f"{key}: {value}" for key, value in keys.items())])
    return ["trusted_targets=[own]", "~data", "+data={" + node + "}", "callbacks=none"]


CASES = {
    "unknown key": (["n_epochs=3"], ["Unknown key n_epochs: did you mean 'n_epoch'?"]),
    "unknown key of a target": (
        ["+model.hiden=3"],
        ["Unknown key model.hiden for nntrain.models.mlp", "did you mean 'hidden'?"],
    ),
    "wrong type at the top": (
        ["n_epoch=many"],
        ["n_epoch: Value 'many' of type 'str' could not be converted to Integer."],
    ),
    "wrong type in a group": (
        ["model.hidden=many"],
        ["model.hidden='many' has the wrong type", "int or a list of int"],
    ),
    "unknown choice": (
        ["model=nosuch"],
        ["Unknown choice model=nosuch: expected one of autoencoder, cnn, mlp"],
    ),
    "unknown metric as objective": (
        ["objective=valid/acc"],
        ["objective=valid/acc", "valid/accuracy"],
    ),
    "unknown metric to monitor": (
        ["callbacks.save_model.monitor=valid/los"],
        ["SaveModel(monitor='valid/los')", "valid/loss"],
    ),
    "a metric that does not fit": (
        ["data=diabetes", "model.n_in=10", "model.n_out=1", "loss=mse"],
        ["metrics.accuracy rejected the output"],
    ),
    "a folder that cannot be created": (
        ["hydra.run.dir=keep.txt/run"],
        ["keep.txt/run cannot be created"],
    ),
    "a removed key": (["~lr"], ["lr was removed from the configuration: drop the override '~lr'"]),
    "a value instead of a node": (
        ["callbacks.progress=42"],
        ["callbacks.progress has no _target_"],
    ),
    "null as a group": (["model=null"], ["must be a string or a list"]),
    "null as a value": (["seed=null"], ["seed needs a value, not null."]),
    "a learning rate of the optimizer": (
        ["+optimizer.lr=0.1"],
        ["optimizer.lr=0.1 would have no effect: set lr instead."],
    ),
    "an invalid argument of the schedule": (["schedule.pct_start=2"], ["schedule: ", "pct_start"]),
    "a loss that does not fit": (["loss=mse"], ["MSELoss", "(64, 10)", "(64,)"]),
    "a model that does not fit": (["model.n_in=63"], ["(64, 1, 8, 8)", "63"]),
    "an empty dataset": (own(n=0, batch_size=4), ["empty"]),
    "a batch larger than the dataset": (
        own(n=10, batch_size=64, drop_last="true"),
        ["64", "10", "drop_last"],
    ),
    "NaN in the data": (own(n=100, bad="true", batch_size=16), ["NaN", "1024"]),
    "unavailable device": (
        ["device=cuda"],
        ["device=cuda is not available on this machine: choose one of auto, cpu"],
    ),
    "unknown device": (["device=gpu7"], ["device=gpu7 is not available on this machine"]),
    "untrusted target": (
        ["model._target_=os.system"],
        ["model._target_=os.system is not trusted", "trusted_targets=[os]"],
    ),
    "invalid store": (
        ["tracker.mlflow.tracking_uri=foo://bar"],
        [
            "tracker.mlflow.tracking_uri=foo://bar is not a valid MLflow store",
            "sqlite:///mlflow.db",
        ],
    ),
    "a URL without a server": (
        ["tracker.mlflow.tracking_uri=http://"],
        ["tracker.mlflow.tracking_uri=http:// does not name a server"],
    ),
    "unknown mode of W&B": (
        ["tracker=wandb", "tracker.wandb.mode=nosuch"],
        ["nosuch", "online, offline, disabled"],
    ),
    "unknown tracker": (
        ["tracker=nosuch"],
        ["Unknown choice tracker=nosuch", "mlflow, none, tensorboard, wandb"],
    ),
    "unknown key of a tracker": (
        ["+tracker.mlflow.url=x"],
        ["Unknown key tracker.mlflow.url for "],
    ),
    "an object that is not a tracker": (
        ["+tracker.mine._target_=torch.nn.ReLU"],
        ["tracker.mine must be an nntrain.integrations.tracker.Tracker but is ReLU"],
    ),
    "a time that is not a number": (
        ["tracker.finish_timeout_s=soon"],
        ["tracker.finish_timeout_s=soon must be a number of seconds"],
    ),
    "a negative time": (
        ["tracker.finish_timeout_s=-1"],
        ["tracker.finish_timeout_s=-1 must be a number of seconds"],
    ),
    "a misspelled key of the trackers": (
        ["+tracker.finish_timeout=3"],
        ["Unknown key tracker.finish_timeout=3", "did you mean 'finish_timeout_s'?"],
    ),
    "a value that is not true or false": (
        ["tracker.offline=perhaps"],
        ["tracker.offline=perhaps must be true or false"],
    ),
    "an invalid pattern": (["redact=['(']"], ["redact[0]=( is not a valid regular expression"]),
    "infinite learning rate": (["lr=inf"], ["lr=inf must be a finite number"]),
    "zero epochs": (["n_epoch=0"], ["n_epoch=0 must be an integer of at least 1"]),
    "missing value": (["seed=???"], ["seed needs a value: add 'seed=VALUE'."]),
    "not an override": (["lr 3"], ["'lr 3' is not a valid override"]),
    "missing checkpoint": (["resume=nowhere.ckpt"], ["nowhere.ckpt"]),
    "not a checkpoint": (
        ["resume=keep.txt"],
        ["keep.txt cannot be loaded: the file is damaged or is not a checkpoint."],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_reported_in_one_sentence_and_writes_nothing(
    name: str, tmp_path: Path, logs: Path
) -> None:
    (tmp_path / "own.py").write_text(USER_DATA)
    (tmp_path / "keep.txt").write_text("content")
    before = tree(tmp_path)
    args, parts = CASES[name]
    done = warm_nntrain_run(*args, cwd=tmp_path, logs=logs)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("nntrain: ")
    for part in parts:
        assert part in lines[0]
    assert tree(tmp_path) == before


def test_hydra_full_error_shows_the_traceback(tmp_path: Path) -> None:
    done = nntrain_run("model=nosuch", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr
