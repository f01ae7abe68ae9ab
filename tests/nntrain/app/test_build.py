"""A resolved configuration is checked whole, and its nodes are made into objects."""

import functools
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from nntrain import AvgMetric, accuracy
from nntrain.app.build import make_all, make_learner, make_metrics, resolve
from nntrain.config.errors import ConfigError
from nntrain.config.instantiate import instantiate
from tests.common.compose import composed, minimal


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=???"], "seed needs a value: add 'seed=VALUE'."),
        (["+x=${nosuch}"], "x cannot be resolved: Interpolation key 'nosuch' not found."),
        (["lr=inf"], "lr=inf is no learning rate: give a finite number greater than 0."),
        (["lr=nan"], "lr=nan is no learning rate"),
        (["lr=0"], "lr=0.0 is no learning rate"),
        (["n_epoch=-1"], "n_epoch=-1 trains nothing"),
        (
            ["resume=nowhere"],
            "resume=nowhere is neither a checkpoint nor a folder with a last.ckpt",
        ),
        (
            ["resume=nowhere", "callbacks=none"],
            "resume needs the callback checkpoint: choose 'callbacks=default'",
        ),
        (["model.hidden=many"], "model.hidden='many' has the wrong type"),
        (
            ["+model.hiden=3"],
            "model.hiden is no parameter of nntrain.models.mlp: did you mean 'hidden'?",
        ),
        (
            ["model._target_=torch.nn.Linear"],
            "model.n_in is no parameter of torch.nn.Linear: expected one of bias, device, dtype, in_features",
        ),
        (
            ["callbacks.progress.interval_s=soon"],
            "callbacks.progress.interval_s='soon' has the wrong type",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(composed(*overrides))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_interpolations_are_resolved(tmp_path: Path) -> None:
    plain = resolve(composed("data.device=${device}", "device=cpu", folder=tmp_path))
    assert plain["data"]["device"] == "cpu"
    assert plain["callbacks"]["save_model"]["path"] == f"{tmp_path}/best.pt"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"in_features": 2}, "model has no _target_"),
        (
            {"_target_": "nntrain.schedule.SGDR", "n_cycles": 0},
            "model: SGDR needs n_cycles and cycle_mult of at least 1",
        ),
    ],
)
def test_a_node_that_cannot_be_made_is_told_with_its_key(
    node: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        instantiate(node, "model")


def test_a_bug_in_a_target_is_no_mistake_of_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "buggy_pkg.py").write_text("def make():\n    raise ZeroDivisionError('bug')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Exception, match="bug") as caught:
        instantiate({"_target_": "buggy_pkg.make"}, "model", ["buggy_pkg"])
    assert not isinstance(caught.value, ConfigError)


def test_nested_nodes_and_lists_are_made() -> None:
    node = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}],
    }
    plain = resolve(minimal({"model": node}))
    model = instantiate(plain["model"], "model")
    assert isinstance(model[0], nn.Linear)
    assert model[0].out_features == 3


def test_an_entry_set_to_null_is_left_out() -> None:
    relu = {"_target_": "torch.nn.ReLU"}
    assert list(make_all({"a": relu, "b": None, "c": relu}, "callbacks")) == ["a", "c"]
    assert make_all(None, "callbacks") == {}


def test_a_metric_is_named_after_its_entry_and_a_function_is_averaged() -> None:
    node = {"_target_": "nntrain.metrics.accuracy", "_partial_": True}
    (metric,) = make_metrics({"my_accuracy": node})
    assert isinstance(metric, AvgMetric)
    assert metric.name == "my_accuracy"


def test_what_is_no_callback_is_refused() -> None:
    plain = resolve(composed("+callbacks.relu._target_=torch.nn.ReLU"))
    with pytest.raises(
        ConfigError, match=r"callbacks\.relu makes ReLU, which is no nntrain\.Callback"
    ):
        make_learner(plain)


def test_the_learner_is_that_of_the_configuration() -> None:
    learn = make_learner(
        resolve(composed("lr=0.5", "device=cpu", "metrics=none", "model.hidden=7"))
    )
    assert learn.lr == 0.5
    assert learn.metrics == []
    assert [
        layer.out_features for layer in learn.model.modules() if isinstance(layer, nn.Linear)
    ] == [7, 10]
    assert learn.opt_func.keywords["betas"] == [0.9, 0.99]


def test_what_is_called_each_batch_is_the_function_itself_and_no_wrapper_of_hydras() -> None:
    (metric,) = make_metrics(resolve(composed())["metrics"])
    assert isinstance(metric, AvgMetric)
    assert type(metric.func) is functools.partial
    assert metric.func.func is accuracy


def test_a_node_that_is_not_recursive_hands_its_nodes_over_as_they_are() -> None:
    inner = {"_target_": "torch.nn.ReLU"}
    made = instantiate(
        {
            "_target_": "torch.nn.Sequential",
            "_args_": [inner],
            "_partial_": True,
            "_recursive_": False,
        },
        "model",
    )
    assert made.args == (inner,)
