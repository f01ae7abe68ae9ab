"""A resolved configuration is checked as a whole, and then its nodes are instantiated."""

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
        (["lr=inf"], "lr=inf must be a finite number greater than 0."),
        (["lr=nan"], "lr=nan must be a finite number"),
        (["lr=0"], "lr=0.0 must be a finite number"),
        (["n_epoch=-1"], "n_epoch=-1 must be an integer of at least 1."),
        (
            ["resume=nowhere"],
            "resume=nowhere must be a checkpoint, or a run folder that contains last.ckpt.",
        ),
        (
            ["resume=nowhere", "callbacks=none"],
            "resume needs the checkpoint callback: use 'callbacks=default'",
        ),
        (["model.hidden=many"], "model.hidden='many' has the wrong type"),
        (
            ["+model.hiden=3"],
            "Unknown key model.hiden for nntrain.models.mlp: did you mean 'hidden'?",
        ),
        (
            ["model._target_=torch.nn.Linear"],
            "Unknown key model.n_in for torch.nn.Linear: expected one of bias, device, dtype, ",
        ),
        (
            ["callbacks.progress.interval_s=soon"],
            "callbacks.progress.interval_s='soon' has the wrong type",
        ),
    ],
)
def test_a_mistake_is_reported_before_anything_is_instantiated(
    overrides: list[str], message: str
) -> None:
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
            "model: SGDR needs n_cycles and cycle_mult to be at least 1",
        ),
    ],
)
def test_the_error_of_a_node_that_cannot_be_instantiated_names_its_key(
    node: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        instantiate(node, "model")


def test_a_bug_in_a_target_is_not_reported_as_a_user_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "buggy_pkg.py").write_text("def make():\n    raise ZeroDivisionError('bug')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Exception, match="bug") as caught:
        instantiate({"_target_": "buggy_pkg.make"}, "model", ["buggy_pkg"])
    assert not isinstance(caught.value, ConfigError)


def test_nested_nodes_and_lists_are_instantiated() -> None:
    node = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}],
    }
    plain = resolve(minimal({"model": node}))
    model = instantiate(plain["model"], "model")
    assert isinstance(model[0], nn.Linear)
    assert model[0].out_features == 3


def test_an_entry_set_to_null_is_skipped() -> None:
    relu = {"_target_": "torch.nn.ReLU"}
    assert list(make_all({"a": relu, "b": None, "c": relu}, "callbacks")) == ["a", "c"]
    assert make_all(None, "callbacks") == {}


def test_a_metric_is_named_after_its_entry_and_a_function_is_averaged() -> None:
    node = {"_target_": "nntrain.metrics.accuracy", "_partial_": True}
    (metric,) = make_metrics({"my_accuracy": node})
    assert isinstance(metric, AvgMetric)
    assert metric.name == "my_accuracy"


def test_an_object_that_is_not_a_callback_is_refused() -> None:
    plain = resolve(composed("+callbacks.relu._target_=torch.nn.ReLU"))
    with pytest.raises(
        ConfigError, match=r"callbacks\.relu must be an nntrain\.Callback but is ReLU"
    ):
        make_learner(plain)


def test_the_learner_is_built_as_configured() -> None:
    learn = make_learner(
        resolve(composed("lr=0.5", "device=cpu", "metrics=none", "model.hidden=7"))
    )
    assert learn.lr == 0.5
    assert learn.metrics == []
    assert [
        layer.out_features for layer in learn.model.modules() if isinstance(layer, nn.Linear)
    ] == [7, 10]
    assert learn.opt_func.keywords["betas"] == [0.9, 0.99]


def test_a_function_that_runs_in_each_batch_is_not_wrapped_by_hydra() -> None:
    (metric,) = make_metrics(resolve(composed())["metrics"])
    assert isinstance(metric, AvgMetric)
    assert type(metric.func) is functools.partial
    assert metric.func.func is accuracy


def test_a_node_that_is_not_recursive_does_not_instantiate_its_nodes() -> None:
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
