"""Hostile targets are refused before any import or call; trusted ones load."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from optuna.pruners import MedianPruner
from optuna.samplers.nsgaii import UniformCrossover
from sklearn.metrics import f1_score
from torchmetrics import Accuracy
from torchmetrics.classification import MulticlassAUROC

from nntrain.app.build import resolve
from nntrain.config.catalog import EXPORTS, NAMES, accepts
from nntrain.config.errors import ConfigError
from nntrain.config.instantiate import instantiate
from nntrain.config.targets import (
    check_path,
    check_targets,
    resolve_target,
    targets_in,
)
from nntrain.models import mlp
from tests.common.compose import minimal

HOSTILE = [
    "os.system",
    "os.popen",
    "os.remove",
    "os.abort",
    "os._exit",
    "os.execv",
    "os.getenv",
    "os.environ.get",
    "posix.system",
    "nt.system",
    "subprocess.run",
    "subprocess.Popen",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.getattr",
    "builtins.__import__",
    "importlib.import_module",
    "runpy.run_path",
    "shutil.rmtree",
    "pathlib.Path.unlink",
    "pathlib.Path.write_text",
    "pickle.loads",
    "pickle.load",
    "pandas.read_pickle",
    "joblib.load",
    "numpy.load",
    "torch.load",
    "torch.serialization.load",
    "torch.hub.load",
    "torch.utils.cpp_extension.load",
    "torch.jit.load",
    "sys.exit",
    "signal.raise_signal",
    "code.interact",
    "webbrowser.open",
    "hydra.utils.get_class",
    "hydra.utils.instantiate",
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "nntrain.checkpoint.write_checkpoint",
    "nntrain.run.main",
    "nntrain.learner.Learner.save",
    "sklearn.datasets.clear_data_home",
    "nntrain_evil.models.mlp",
    "torch.nnx.Linear",
    "torch",
    "",
    "torch.nn.",
    ".torch.nn.Linear",
    "torch.nn/../os.system",
    "torch nn Linear",
    "torch.nn.functional.__builtins__",
    "torch.nn.Module.__init__.__globals__",
    "torch.nn.modules._functions.SyncBatchNorm",
]

REACHED_THROUGH_A_TRUSTED_MODULE = [
    "torch.nn.functional.torch.load",
    "torch.nn.functional.importlib.import_module",
    "torch.optim.optimizer.torch.hub.load",
    "torch.optim.lr_scheduler.warnings.warn",
    "nntrain.callbacks.saving.Path",
    "nntrain.metrics.accumulated.functools.partial",
    "nntrain.integrations.capture.provenance.subprocess.run",
    "nntrain.integrations.mlflow.os.remove",
    "nntrain.data.digits.np.load",
]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize(
    "where", ["direct", "in a list", "in _args_", "interpolated", "created", "partial"]
)
def test_a_hostile_target_is_refused_by_its_path(target: str, where: str) -> None:
    node: Any = {"_target_": target}
    shapes: dict[str, Any] = {
        "direct": {"model": node},
        "in a list": {"model": {"layers": [{"ok": 1}, node]}},
        "in _args_": {"model": {"_target_": "nntrain.models.mlp", "_args_": [node]}},
        "interpolated": {"evil": target, "model": {"_target_": "${evil}"}},
        "created": {"model": "${oc.create:{_target_:'" + target + "'}}"},
        "partial": {"model": {**node, "_partial_": True}},
    }
    if where == "created" and (not target or " " in target):
        shapes["created"] = shapes["direct"]  # an interpolation cannot contain such targets
    with pytest.raises(ConfigError, match=r"not trusted|must be a dotted path|private"):
        check_targets(OmegaConf.create(shapes[where]))


def test_a_refusal_imports_nothing() -> None:
    before = set(sys.modules)
    for target in HOSTILE:
        with pytest.raises(ConfigError):
            check_targets(OmegaConf.create({"model": {"_target_": target}}))
    assert set(sys.modules) == before


@pytest.mark.parametrize("target", REACHED_THROUGH_A_TRUSTED_MODULE)
def test_a_name_that_a_trusted_module_only_imports_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"not trusted|does not exist|private"):
        resolve_target(target, (), "model")


def test_a_hostile_target_has_no_effect(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    cfg = minimal({"model": {"_target_": "os.system", "command": f"touch {touched}"}})
    with pytest.raises(ConfigError):
        resolve(cfg)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("torch.nn.Linear", torch.nn.Linear),
        ("torch.nn.functional.cross_entropy", torch.nn.functional.cross_entropy),
        ("torch.nn.functional.gelu", torch.nn.functional.gelu),
        ("torch.optim.SGD", torch.optim.SGD),
        ("torch.optim.lr_scheduler.StepLR", torch.optim.lr_scheduler.StepLR),
        ("torch.nn.functional.cosine_similarity", torch.nn.functional.cosine_similarity),
        ("torch.nn.init.ones_", torch.nn.init.ones_),
        ("sklearn.metrics.f1_score", f1_score),
        ("torchmetrics.Accuracy", Accuracy),
        ("torchmetrics.classification.MulticlassAUROC", MulticlassAUROC),
        ("optuna.pruners.MedianPruner", MedianPruner),
        ("optuna.samplers.nsgaii.UniformCrossover", UniformCrossover),
        ("nntrain.models.mlp", mlp),
    ],
)
def test_a_trusted_target_is_imported(target: str, expected: Any) -> None:
    check_path(target, (), "model")
    assert resolve_target(target, (), "model") is expected


def test_a_users_package_must_be_named_in_trusted_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_pkg_1.py").write_text("def make(n: int) -> int:\n    return 2 * n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "my_pkg_1.make", "n": 3}
    for listed in ([], ["my_pkg_1"]):  # what a configuration lists is data
        with pytest.raises(ConfigError, match=r"add 'trusted_targets=\[my_pkg_1\]' to the command"):
            resolve(minimal({"data": node, "trusted_targets": listed}))
    plain = resolve(minimal({"data": node, "trusted_targets": ["other"]}), ["my_pkg_1"])
    assert plain["trusted_targets"] == ["my_pkg_1"]
    assert instantiate(plain["data"], "data", ["my_pkg_1"]) == 6


@pytest.mark.parametrize("name", ["os; rm -rf", "*", "", "my-package"])
def test_trusted_targets_must_be_package_names(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a package name"):
        check_targets(OmegaConf.create({}), [name])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nntrain.models.mpl", "did you mean 'mlp'?"),
        (
            "nntrain.models.nothing_like_it",
            "cannot be used in a configuration: expected one of Autoencoder, ",
        ),
        ("torch.nn.Liner", "does not exist: did you mean 'Linear'?"),
        ("torch.nn.functional.crossentropy", "did you mean 'cross_entropy'?"),
        ("optuna.samplers.TPESampller", "did you mean 'TPESampler'?"),
        ("nntrain.models", "nntrain.models is not trusted: choose from "),
        (
            "torch.nn.modules.loss.MSELoss",
            "or add 'trusted_targets=[torch.nn.modules.loss]' to the command if you trust its code",
        ),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_the_closest_match(
    target: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve_target(target, (), "model")


def test_an_unknown_name_in_an_empty_package_is_an_error_of_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_pkg_2").mkdir()
    (tmp_path / "my_pkg_2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for target, why in [
        ("my_pkg_2.X", "my_pkg_2 has no public names."),
        ("my_pkg_2.nomodule.X", "there is no module my_pkg_2.nomodule."),
    ]:
        with pytest.raises(ConfigError) as caught:
            resolve_target(target, ["my_pkg_2"], "model")
        assert str(caught.value) == f"model._target_={target} does not exist: {why}"


def test_the_error_for_a_missing_package_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ConfigError, match=r"pip install 'nntrain\[metrics\]'"):
        resolve_target("torchmetrics.Accuracy", (), "metrics.accuracy")


def test_every_target_of_a_nested_config_is_found() -> None:
    cfg = OmegaConf.create(
        {
            "a": {"_target_": "x.y", "b": [{"_target_": "p.q"}]},
            "c": "${a}",
            "d": "???",
            "e": {"_args_": [{"_target_": "r.s"}]},
        }
    )
    assert list(targets_in(cfg)) == [
        ("a", "x.y"),
        ("a.b[0]", "p.q"),
        ("c", "x.y"),
        ("c.b[0]", "p.q"),
        ("e._args_[0]", "r.s"),
    ]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_of_the_catalog_exists(name: str) -> None:
    assert callable(resolve_target(name, (), "x"))


ROOT = Path(__file__).parents[3]
TEXTS = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.rglob("conf/**/*.yaml")]
WRITTEN = {
    name
    for text in TEXTS
    for name in re.findall(r"_target_[:=]\s*([\w.]+)", text.read_text())
    if name.split(".")[0] in ("nntrain", "optuna", "sklearn", "torch", "torchmetrics")
}


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_every_target_of_the_config_files_and_the_documentation_is_allowed(name: str) -> None:
    assert len(WRITTEN) > 50
    assert callable(resolve_target(name, (), "x"))


@pytest.mark.parametrize("module", sorted(EXPORTS))
def test_every_module_of_the_catalog_has_classes_to_configure(module: str) -> None:
    found = importlib.import_module(module)
    names = [name for name in dir(found) if not name.startswith("_")]
    assert any(accepts(f"{module}.{name}", getattr(found, name)) for name in names)


def test_a_trusted_package_that_leads_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_pkg_3.py").write_text("import os\nfrom os import system\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for target in ("my_pkg_3.os.system", "my_pkg_3.system", "my_pkg_3.os"):
        with pytest.raises(ConfigError, match="is not trusted"):
            resolve_target(target, ["my_pkg_3"], "model")
