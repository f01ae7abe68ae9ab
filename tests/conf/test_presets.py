"""The configs of data, models and losses, and the experiments that combine them."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from nntrain.app.build import make_learner, resolve
from nntrain.sweeps import register

register()  # Hydra does not find the sweeper in an editable install

CONF = Path(__file__).parents[2] / "conf"
QUIET = ["callbacks=none", "tracker=none", "device=cpu"]
DIFFERENT_DEFAULTS = {"data/digits": {"flat"}}
"""Arguments whose value in the config differs from the function's default.

Images keep their shape, so that the config suits all models.
"""


def choices(*groups: str) -> list[str]:
    return [
        f"{group}/{path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))
    ]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_module("nntrain.conf", version_base=None):
        yield


def resolved(*overrides: str) -> dict[str, Any]:
    return resolve(compose("config", overrides=[*overrides, *QUIET]))


@pytest.mark.parametrize(
    "choice", [choice for choice in choices("data", "model") if "unlabelled" not in choice]
)
def test_a_config_has_every_setting_of_its_function_at_its_default(choice: str) -> None:
    group, name = choice.split("/")
    node = resolved(f"{group}={name}")[group]
    target = get_method(node["_target_"])
    defaults = {key: param.default for key, param in inspect.signature(target).parameters.items()}
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in node.items()
        if key != "_target_"
    }
    assert given.keys() == defaults.keys()
    differing = {key for key in given if given[key] != defaults[key]}
    assert differing == DIFFERENT_DEFAULTS.get(choice, set())


@pytest.mark.parametrize(
    "choice", [choice for choice in choices("data", "model", "loss") if "fashion" not in choice]
)
def test_a_config_makes_its_object(choice: str) -> None:
    group, name = choice.split("/")
    node = resolved(f"{group}={name}")[group]
    made = instantiate(node, _convert_="all")
    if group == "data":
        assert len(next(iter(made.train))[0]) == 64
    else:
        assert isinstance(made, torch.nn.Module)


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
def test_every_classifier_takes_the_default_data(model: str) -> None:
    learn = make_learner(resolved(f"model={model}"))
    assert learn.fit(1).train_iter == 23


@pytest.mark.parametrize("choice", choices("experiment"))
def test_an_experiment_trains(choice: str) -> None:
    name = choice.removeprefix("experiment/")
    cfg = resolved(f"experiment={name}")
    default = resolved()
    assert (cfg["n_epoch"], cfg["data"], cfg["model"]) != (
        default["n_epoch"],
        default["data"],
        default["model"],
    )
    metrics = make_learner(cfg).fit(1).metrics
    assert cfg["objective"] in metrics


@pytest.mark.parametrize("hidden", ["32", "[64,32]"])
def test_hidden_may_be_a_number_or_a_list(hidden: str) -> None:
    model = make_learner(resolved(f"model.hidden={hidden}")).model
    linear = [
        module.out_features for module in model.modules() if isinstance(module, torch.nn.Linear)
    ]
    assert linear == [*([32] if hidden == "32" else [64, 32]), 10]


def test_label_smoothing_softens_the_loss() -> None:
    loss = instantiate(resolved("loss=label_smoothing")["loss"])
    assert loss.label_smoothing == 0.1


@pytest.mark.parametrize("choice", choices("data", "model", "loss", "experiment"))
def test_every_key_is_explained_above_its_line(choice: str) -> None:
    lines = (CONF / f"{choice}.yaml").read_text().splitlines()
    assert OmegaConf.create("\n".join(lines))
    for above, line in zip(["", *lines], lines, strict=False):
        key = line.strip().partition(":")[0]
        if ":" in line and not line.lstrip().startswith(("#", "-")) and key != "defaults":
            assert above.lstrip().startswith("# "), f"{choice}.yaml: {key}"
