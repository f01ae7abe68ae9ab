"""Every config file composes, its targets are allowed, and its objects can be created."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from omegaconf import OmegaConf
from torch import nn

from nntrain import Callback, Metric
from nntrain.app.build import make_all, make_learner, make_metrics, resolve
from nntrain.app.preflight import check_first_batch
from nntrain.app.tracking import make_trackers
from nntrain.config.instantiate import instantiate
from nntrain.core.optimizer import Optimizer
from nntrain.integrations.tracker import Tracker
from nntrain.schedule import ParamScheduler
from tests.common.cli import nntrain_run
from tests.common.compose import CONF, choices, composed, groups

FILES = sorted(CONF.rglob("*.yaml"))


def test_the_config_groups_are_those_of_the_readme() -> None:
    trains = {"callbacks", "data", "loss", "metrics", "model", "optimizer", "schedule", "tracker"}
    assert set(groups()) == trains | {"experiment", "sweep", "debug"}


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """Saves a tiny stand-in for Fashion-MNIST and returns its folder."""
    part = Dataset.from_dict(
        {"image": [[[i % 256] * 28] * 28 for i in range(20)], "label": [i % 10 for i in range(20)]}
    )
    DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "fashion"))
    return tmp_path / "fashion"


@pytest.mark.parametrize("choice", choices("data"))
def test_every_data_config_gives_batches(choice: str, fashion: Path) -> None:
    overrides = [f"data={choice}"] + ([f"data.path={fashion}"] if choice == "fashion_mnist" else [])
    dls = instantiate(resolve(composed(*overrides))["data"], "data")
    assert next(iter(dls.train)) is not None
    assert next(iter(dls.valid)) is not None


@pytest.mark.parametrize("choice", choices("model"))
def test_every_model_config_makes_a_module(choice: str) -> None:
    assert isinstance(
        instantiate(resolve(composed(f"model={choice}"))["model"], "model"), nn.Module
    )


@pytest.mark.parametrize("choice", choices("loss"))
def test_every_loss_config_makes_a_function(choice: str) -> None:
    assert callable(instantiate(resolve(composed(f"loss={choice}"))["loss"], "loss"))


@pytest.mark.parametrize("choice", choices("optimizer"))
def test_every_optimizer_config_makes_a_factory(choice: str) -> None:
    factory = instantiate(resolve(composed(f"optimizer={choice}"))["optimizer"], "optimizer")
    assert isinstance(factory([nn.Parameter(torch.zeros(1))], lr=0.1), Optimizer)


@pytest.mark.parametrize("choice", choices("schedule"))
def test_every_schedule_config_makes_a_scheduler(choice: str) -> None:
    node = resolve(composed(f"schedule={choice}"))["schedule"]
    assert (
        node == {}
        if choice == "none"
        else isinstance(instantiate(node, "schedule"), ParamScheduler)
    )


@pytest.mark.parametrize("choice", choices("metrics"))
def test_every_metrics_config_makes_metrics_named_after_their_entries(choice: str) -> None:
    node = resolve(composed(f"metrics={choice}"))["metrics"]
    made = make_metrics(node)
    assert [metric.name for metric in made] == list(node)
    assert all(isinstance(metric, Metric) for metric in made)


@pytest.mark.parametrize("choice", choices("callbacks"))
def test_every_callbacks_config_makes_callbacks(choice: str) -> None:
    made = make_all(resolve(composed(f"callbacks={choice}"))["callbacks"], "callbacks")
    assert (len(made) == 0) == (choice == "none")
    assert all(isinstance(callback, Callback) for callback in made.values())


@pytest.mark.parametrize("choice", choices("tracker"))
def test_every_tracker_config_makes_trackers(choice: str) -> None:
    made = make_trackers(resolve(composed(f"tracker={choice}"))["tracker"])
    assert list(made) == ([] if choice == "none" else [choice])
    assert all(isinstance(tracker, Tracker) for tracker in made.values())


def test_several_trackers_can_be_chosen() -> None:
    assert list(make_trackers(resolve(composed("tracker=[mlflow,wandb]"))["tracker"])) == [
        "mlflow",
        "wandb",
    ]


@pytest.mark.parametrize("choice", choices("debug"))
@pytest.mark.parametrize("experiment", [None, *choices("experiment")])
def test_every_experiment_and_debug_config_makes_a_learner_that_fits_its_data(
    choice: str, experiment: str | None
) -> None:
    preset = [f"experiment={experiment}"] if experiment else []
    plain = resolve(composed(*preset, f"debug={choice}", "device=cpu", "tracker=none"))
    check_first_batch(make_learner(plain))


def test_several_callbacks_configs_can_be_chosen_and_one_removed() -> None:
    cfg = composed("callbacks=[default,early_stopping,ema]", "~callbacks.progress")
    assert {"early_stopping", "ema", "save_model"} <= set(cfg.callbacks)
    assert "progress" not in cfg.callbacks


def test_a_callback_set_to_null_is_removed() -> None:
    plain = resolve(composed("callbacks.progress=null"))
    assert "progress" not in make_all(plain["callbacks"], "callbacks")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_key_has_a_comment_above_it(path: Path) -> None:
    if path.parent.name in ("help", "job_logging"):
        return
    lines = path.read_text().splitlines()
    free = ("_target_", "_partial_", "defaults", "callbacks", "hydra", "job", "run", "sweep", "-")
    for number, line in enumerate(lines):
        key = re.match(r"\s*([A-Za-z_]\w*|-)\s*:?", line)
        if key is None or line.lstrip().startswith("#") or key[1] in free or line == "{}":
            continue
        assert lines[number - 1].lstrip().startswith("#"), (
            f"{path.name}: no comment above {line.strip()!r}"
        )


def test_the_whole_configuration_can_be_printed() -> None:
    text = OmegaConf.to_yaml(composed())
    for key in (
        "seed",
        "n_epoch",
        "lr",
        "device",
        "objective",
        "trusted_targets",
        "resume",
        "data",
        "model",
        "callbacks",
    ):
        assert re.search(rf"^{key}:", text, re.MULTILINE)


def test_the_trace_preset_alone_writes_the_log_of_the_run(tmp_path: Path) -> None:
    done = nntrain_run(
        "debug=trace", "n_epoch=1", "tracker=none", "hydra.run.dir=here", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 0 train_iter 0 before_batch" in (tmp_path / "here" / "run.log").read_text()
    assert "before_batch" not in done.stdout + done.stderr


def test_the_moving_average_is_shorter_than_a_short_fit() -> None:
    n_step = 276  # the number of steps in the README's example
    assert 1 / (1 - composed("callbacks=ema").callbacks.ema.decay) < n_step / 2
