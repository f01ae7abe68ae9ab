"""The metrics that each config in the metrics group creates, and the comments on its keys."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.metrics import f1_score

from nntrain.app.build import make_metrics
from tests.common.toys import digits_lists, digits_mlp, toy_learner

GROUP = Path(__file__).parents[2] / "conf/metrics"
NAMES = sorted(path.stem for path in GROUP.glob("*.yaml"))
LOSSES = {"train/loss", "valid/loss"}


def composed(name: str) -> dict[str, Any]:
    with initialize_config_module("nntrain.conf", version_base="1.3"):
        cfg = compose(overrides=[f"+metrics={name}"])
    nodes = OmegaConf.to_container(cfg.get("metrics", OmegaConf.create()), resolve=True)
    assert isinstance(nodes, dict)
    return {str(key): node for key, node in nodes.items()}


def recorded(row: dict[str, float]) -> set[str]:
    return {name for name in row if name.startswith(("train/", "valid/"))}


def test_the_group_holds_what_is_tested_here() -> None:
    assert NAMES == ["classification", "classification_full", "none", "regression"]


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("classification", {"train/accuracy", "valid/accuracy"}),
        ("classification_full", {"train/accuracy", "valid/accuracy", "valid/f1"}),
        ("none", set()),
    ],
)
def test_a_classification_config_records_its_metrics(name: str, metrics: set[str]) -> None:
    learn = toy_learner(
        digits_lists(),
        digits_mlp(),
        loss_func=torch.nn.CrossEntropyLoss(),
        metrics=make_metrics(composed(name)),
    )
    learn.fit(1)
    assert recorded(learn.recorder.row) == LOSSES | metrics


def test_the_regression_config_records_its_metrics() -> None:
    learn = toy_learner(metrics=make_metrics(composed("regression")))
    learn.fit(1)
    assert recorded(learn.recorder.row) == LOSSES | {"train/mae", "valid/mae", "valid/r2"}


def test_f1_of_the_full_config_equals_scikit_learns() -> None:
    learn = toy_learner(
        digits_lists(),
        digits_mlp(),
        loss_func=torch.nn.CrossEntropyLoss(),
        metrics=make_metrics(composed("classification_full")),
    )
    pred, target = learn.get_preds()
    assert target is not None
    assert learn.validate()["valid/f1"] == pytest.approx(
        f1_score(target, pred.argmax(1), average="macro")
    )


@pytest.mark.parametrize("name", NAMES)
def test_hydra_itself_makes_every_metric(name: str) -> None:
    made = {key: instantiate(node) for key, node in composed(name).items()}
    assert all(metric.part in ("valid", "both") for metric in made.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_key_has_a_comment_above_it(name: str) -> None:
    lines = (GROUP / f"{name}.yaml").read_text().splitlines()
    keys = [
        i for i, line in enumerate(lines) if re.match(r"\s*[\w]+:", line) and line != "defaults:"
    ]
    assert [lines[i] for i in keys if not lines[i - 1].strip().startswith("#")] == []
