"""Nothing that data names is imported or called, whichever way it comes in."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna.samplers  # noqa: F401 - what a refused name may lead to is imported before
import pytest
import sklearn.metrics  # noqa: F401
import torch.optim.lr_scheduler  # noqa: F401
import torchmetrics  # noqa: F401
import yaml
from omegaconf import OmegaConf

from nntrain.app.build import resolve
from nntrain.app.command_line import check_command_line
from nntrain.config.errors import ConfigError
from nntrain.config.instantiate import instantiate
from nntrain.config.targets import check_targets
from nntrain.integrations.shipping.spec import tracker_of
from nntrain.sweeps import register
from nntrain.sweeps.spec.space import make_space
from tests.common.cli import nntrain_run
from tests.common.compose import minimal

register()  # an editable install hides the sweeper from Hydra

DECOY = """
from pathlib import Path

Path({marker!r}).touch()

def fire(*args, **kwargs):
    Path({marker!r}).touch()

class Handler:
    def __init__(self, *args, **kwargs):
        fire()
"""


@pytest.fixture
def unharmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Puts a module `decoy` on the path; the result tells whether nothing of it has run."""
    marker = tmp_path / "harmed"
    (tmp_path / "decoy").mkdir()
    (tmp_path / "decoy" / "__init__.py").write_text(DECOY.format(marker=str(marker)))
    (tmp_path / "decoy" / "x.yaml").write_text("a: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("EVIL", "decoy.fire")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open-sesame")
    monkeypatch.delitem(sys.modules, "decoy", raising=False)
    return lambda: not marker.exists() and "decoy" not in sys.modules


# --- names

STANDARD_LIBRARY = """
asyncio.create_subprocess_shell builtins.__import__ builtins.compile builtins.eval builtins.exec
builtins.getattr builtins.open builtins.setattr code.interact codeop.compile_command
ctypes.CDLL distutils.spawn.spawn functools.partial functools.reduce importlib.import_module
importlib.reload logging.FileHandler marshal.loads multiprocessing.Process nt.system operator.call
operator.methodcaller os.abort os.execv os.fork os.kill os.popen os.remove os.symlink os.system
pathlib.Path.touch pathlib.Path.unlink pathlib.Path.write_text pdb.run pickle.load pickle.loads
pickle.Unpickler pip.main pkgutil.resolve_name posix.system pty.spawn pydoc.locate runpy.run_module
runpy.run_path shelve.open shutil.copy shutil.rmtree signal.raise_signal socket.create_connection
subprocess.Popen subprocess.call subprocess.check_output subprocess.run sys.exit sys.settrace
tempfile.mkstemp timeit.timeit types.FunctionType unittest.main urllib.request.urlretrieve
venv.create webbrowser.open xmlrpc.server.SimpleXMLRPCServer zipfile.ZipFile
"""

LIBRARIES = """
hydra.utils.call hydra.utils.get_class hydra.utils.get_method hydra.utils.instantiate
hydra.core.utils.run_job hydra._internal.utils._locate
hydra._internal.core_plugins.basic_launcher.BasicLauncher
hydra_plugins.nntrain_sweeper.sweeper.NntrainSweeper hydra_plugins.nntrain_sweeper.register
joblib.load numpy.load numpy.f2py.compile omegaconf.OmegaConf.load
omegaconf.OmegaConf.register_new_resolver
optuna.load_study optuna.storages.RDBStorage optuna.samplers._cmaes.pickle.loads
optuna.samplers.CmaEsSampler.reseed_rng optuna.pruners.pickle.loads optuna.create_study
pandas.eval pandas.read_pickle requests.get mlflow.pyfunc.load_model mlflow.projects.run
sklearn.datasets.fetch_openml sklearn.metrics.get_scorer sklearn.metrics.make_scorer
sklearn.metrics.pairwise_distances sklearn.metrics.pairwise_kernels
sklearn.metrics.pairwise.pairwise_distances sklearn.utils.estimator_checks.check_estimator
torch.compile torch.hub.load torch.hub.download_url_to_file torch.jit.load torch.load torch.save
torch.nn.functional.boolean_dispatch torch.nn.functional.handle_torch_function
torch.nn.functional.importlib.import_module torch.nn.functional.torch.hub.load
torch.nn.functional.torch.load torch.nn.functional.warnings.sys.exit torch.nn.Linear.load_state_dict
torch.nn.Module torch.nn.Module.__init__.__globals__ torch.nn.Module.apply torch.nn.Parameter
torch.nn.modules._functions.SyncBatchNorm torch.nn.modules.module.torch.load
torch.nn.modules.module.register_module_forward_hook torch.nn.parallel.distributed.pickle.loads
torch.nn.parallel.DistributedDataParallel.register_comm_hook
torch.nn.utils.parametrize.copy.deepcopy
torch.ops.load_library torch.optim.Optimizer torch.optim.Optimizer.load_state_dict
torch.optim.lr_scheduler.Counter torch.optim.lr_scheduler.partial
torch.optim.lr_scheduler.warnings.warn
torch.optim.optimizer.torch.hub.load torch.optim.swap_in_optimizer_params_and_state
torch.package.PackageImporter
torch.serialization.load torch.utils.cpp_extension.load torch.utils.data.DataLoader
torch.distributed.init_process_group torch.multiprocessing.spawn torchvision.models.resnet50
torchmetrics.Metric torchmetrics.MetricCollection torchmetrics.Accuracy.load_state_dict
torchmetrics.image.FrechetInceptionDistance torchmetrics.multimodal.CLIPScore
torchmetrics.text.BERTScore torchmetrics.text.InfoLM torchmetrics.text.ROUGEScore
torchmetrics.utilities.imports.importlib.import_module torchmetrics.wrappers.LambdaInputTransformer
wandb.init wandb.restore
"""

OWN_MACHINERY = """
nntrain.app.command_line.check_command_line nntrain.app.job.job nntrain.app.resume.read_checkpoint
nntrain.app.sync.main nntrain.callbacks.Checkpoint.save_checkpoint nntrain.callbacks.saving.Path
nntrain.callbacks.checkpointing.os.remove nntrain.checkpoint.read_checkpoint
nntrain.checkpoint.write_checkpoint nntrain.config.targets.importlib.import_module
nntrain.config.targets.resolve_target nntrain.data.hf.load_from_disk nntrain.data.builtin.np.load
nntrain.integrations.capture.provenance.subprocess.run
nntrain.integrations.journal.writer.JournalWriter nntrain.integrations.mlflow.os.remove
nntrain.integrations.resume.link_or_copy nntrain.integrations.shipping.client.Shipper
nntrain.integrations.shipping.client.subprocess.Popen
nntrain.integrations.shipping.continuation.continue_journal
nntrain.integrations.shipping.continuation.link_or_copy nntrain.integrations.shipping.shipper.log_to
nntrain.integrations.tracker.Tracker nntrain.lazy.lazy_names nntrain.learner.Learner
nntrain.learner.Learner.save nntrain.metrics.accumulated.functools.partial nntrain.metrics.as_metric
nntrain.models nntrain.models.inits.make_activation nntrain.models.mlp.__globals__
nntrain.run.main nntrain.schedule.fit_one_cycle nntrain.sweeps.register
nntrain.sweeps.space.custom_function nntrain.sweeps.spec.space.custom_function
nntrain.sweeps.spec.space.importlib.import_module nntrain.sweeps.storage.open_storage
nntrain.sweeps.study.opening.open_study nntrain.sweeps.study.storage.open_storage
nntrain.sweeps.workers.supervisor.subprocess.Popen nntrain.sweeps.worker_main.main
nntrain.sweeps.workers.worker_main.main nntrain.testing.SpyCallback nntrain_evil.models.mlp
"""

MALFORMED = [
    "",
    "torch",
    "torch.nn.",
    ".torch.nn.Linear",
    "torch nn Linear",
    "torch.nn/../os.system",
    "torch.nn.Linear\n",
    "torch.nn.Linear;os.system",
    "torch.nn.\uff2cinear",
    "torch.nn.Linear#",
    "tоrch.nn.Linear",  # noqa: RUF001 - a Cyrillic letter
    "torch.nnx.Linear",
    "decoy.fire",
    7,
    None,
    True,
    ["torch.nn.Linear"],
    {"_target_": "decoy.fire"},
]

NAMES: list[Any] = [*f"{STANDARD_LIBRARY} {LIBRARIES} {OWN_MACHINERY}".split(), *MALFORMED]


def shapes(target: Any) -> dict[str, Any]:
    """Returns configurations that hide a target."""
    node = {"_target_": target, "_convert_": "all"}
    return {
        "direct": node,
        "partial": {**node, "_partial_": True},
        "in a list": {"_target_": "torch.nn.Sequential", "layers": [{"ok": 1}, [node]]},
        "in _args_": {"_target_": "torch.nn.Sequential", "_args_": [node]},
        "not recursive": {"_target_": "torch.nn.Sequential", "_recursive_": False, "a": node},
        "without a node above": {"a": {"b": node}},
    }


@pytest.mark.parametrize("target", NAMES, ids=repr)
def test_a_hostile_name_is_refused_in_each_place_and_imports_nothing(
    target: Any, unharmed: Callable[[], bool]
) -> None:
    before = set(sys.modules)
    for node in shapes(target).values():
        with pytest.raises(ConfigError):
            resolve(minimal({"model": node, "trusted_targets": ["decoy", "os", "torch"]}))
    assert unharmed()
    assert {name.split(".")[0] for name in set(sys.modules) - before} <= {"torch", "torchmetrics"}


@pytest.mark.parametrize("target", NAMES, ids=repr)
@pytest.mark.parametrize("key", ["callbacks", "launcher", "sweeper", "help"])
def test_a_hostile_name_is_refused_below_hydra(target: Any, key: str) -> None:
    known = "hydra_plugins.", "hydra._internal.core_plugins."
    if str(target).startswith(known) and str(target).endswith(("Sweeper", "Launcher")):
        return  # this is the place for them
    with pytest.raises(ConfigError):
        check_targets(OmegaConf.create({"hydra": {key: {"x": {"_target_": target}}}}))


@pytest.mark.parametrize("target", NAMES, ids=repr)
def test_a_journal_cannot_name_a_hostile_tracker_or_model(
    target: Any, unharmed: Callable[[], bool]
) -> None:
    with pytest.raises(ConfigError):
        tracker_of({"_target_": target})
    with pytest.raises(ConfigError):
        instantiate({"_target_": target}, "model")
    assert unharmed()


# --- files of somebody else

EVIL = {"_target_": "decoy.fire"}
HUB = {"_target_": "torch.nn.functional.torch.hub.load", "repo_or_dir": "decoy"}
PRIMARY = {"defaults": ["config", "_self_"]}
GLOBAL = "# @package _global_\n"


def logging(part: str, node: Any) -> dict[str, Any]:
    """Returns a logging configuration with one more entry."""
    return {"version": 1, part: {"x": node}, "root": {"handlers": []}}


HYDRA_NODES: dict[str, Any] = {
    "a callback": {"callbacks": {"x": EVIL}},
    "a callback of a known name": {"callbacks": {"x": {"_target_": "torch.nn.ReLU"}}},
    "a callback that nntrain uses": {
        "callbacks": {"x": {"_target_": "nntrain.app.study_run.StudyRun"}}
    },
    "a callback through torch": {"callbacks": {"x": HUB}},
    "a callback in a list": {"callbacks": {"x": {"y": [EVIL]}}},
    "a study callback": {"sweeper": {"callbacks": {"x": EVIL}}},
    "a study callback through torch": {"sweeper": {"callbacks": {"x": HUB}}},
    "a launcher": {"launcher": EVIL},
    "another known launcher": {
        "launcher": {
            "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
        }
    },
    "a cluster's launcher, which runs shell commands": {
        "launcher": {
            "_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
        }
    },
    "a sweeper": {"sweeper": EVIL},
    "a sampler": {"sweeper": {"sampler": EVIL}},
    "a sampler through torch": {"sweeper": {"sampler": HUB}},
    "a part of a sampler": {
        "sweeper": {
            "sampler": {"_target_": "optuna.samplers.NSGAIISampler", "constraints_func": EVIL}
        }
    },
    "a pruner": {"sweeper": {"pruner": EVIL}},
    "a search space function": {"sweeper": {"custom_search_space": "decoy.fire"}},
    "a storage": {"sweeper": {"storage": "mysql://evil.example/db"}},
    "another study": {"sweeper": {"warm_start": "/somewhere/else"}},
    "PYTHONPATH": {"job": {"env_set": {"PYTHONPATH": "decoy"}}},
    "git's settings": {"job": {"env_set": {"GIT_CONFIG_COUNT": "1"}}},
    "LD_PRELOAD": {"job": {"env_set": {"LD_PRELOAD": "evil.so"}}},
    "a copied variable": {"job": {"env_copy": ["EVIL"]}},
    "an imported search path": {"searchpath": ["pkg://decoy"]},
    "another search path": {"searchpath": ["file://decoy"]},
    "a hidden search path": {"searchpath": "${redact}"},
    "the folder of Hydra's files": {"output_subdir": "elsewhere"},
    "a formatter's factory": {"job_logging": logging("formatters", {"()": "decoy.fire"})},
    "torch.hub as a formatter": {"job_logging": logging("formatters", {"()": "torch.hub.load"})},
    "a formatter's class": {"job_logging": logging("formatters", {"class": "decoy.Handler"})},
    "a handler's class": {"job_logging": logging("handlers", {"class": "decoy.Handler"})},
    "a handler's factory": {"job_logging": logging("handlers", {"()": "decoy.fire"})},
    "a filter's factory": {"job_logging": logging("filters", {"()": "decoy.fire"})},
    "a handler with a file": {
        "job_logging": logging("handlers", {"class": "logging.FileHandler", "filename": "harmed"})
    },
    "a handler with a socket": {
        "job_logging": logging("handlers", {"class": "logging.handlers.SocketHandler"})
    },
    "an imported stream": {
        "job_logging": logging(
            "handlers", {"class": "logging.StreamHandler", "stream": "ext://decoy"}
        )
    },
    "a level that is imported": {
        "job_logging": logging("handlers", {"class": "logging.NullHandler", "level": "ext://decoy"})
    },
    "a queue": {
        "job_logging": logging(
            "handlers", {"class": "logging.handlers.QueueHandler", "queue": EVIL}
        )
    },
    "a factory by interpolation": {"job_logging": logging("filters", {"()": "${oc.env:EVIL}"})},
    "Hydra's own log": {"hydra_logging": logging("formatters", {"()": "decoy.fire"})},
    "a class in Hydra's own log": {
        "hydra_logging": logging("handlers", {"class": "decoy.Handler"})
    },
}


def best(hydra: Any, **keys: Any) -> dict[str, str]:
    """Returns a primary config with these keys of Hydra, which lists what it wants trusted."""
    content = {**PRIMARY, "hydra": hydra, "trusted_targets": ["decoy", "torch"], **keys}
    return {"best.yaml": yaml.safe_dump(content, sort_keys=False)}


@pytest.fixture
def refused(
    tmp_path: Path, unharmed: Callable[[], bool]
) -> Callable[[Mapping[str, str], Sequence[str]], str]:
    """Writes the files, checks that the command line is refused unharmed, and returns why."""

    def check(files: Mapping[str, str], argv: Sequence[str]) -> str:
        for name, text in files.items():
            path = tmp_path / "conf" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            check_command_line(argv)
        assert unharmed()
        text = str(caught.value)
        assert "\n" not in text
        return text

    return check


Refused = Callable[[Mapping[str, str], Sequence[str]], str]
BEST = ["--config-dir", "conf", "--config-name", "best"]


@pytest.mark.parametrize("name", HYDRA_NODES)
def test_a_foreign_config_sets_nothing_in_hydra_that_runs_code(name: str, refused: Refused) -> None:
    text = refused(best(HYDRA_NODES[name], redact=["pkg://decoy"]), BEST)
    assert text.startswith("hydra.")
    assert re.search("type this key in the command, or name the folder|is not trusted", text)


@pytest.mark.parametrize("name", ["a formatter's factory", "an imported search path"])
@pytest.mark.parametrize(
    "option", [["--help"], ["--hydra-help"], ["--info"], ["--cfg", "job"], ["-m", "lr=1,2"]]
)
def test_help_and_other_options_are_checked_too(
    name: str, option: list[str], refused: Refused
) -> None:
    assert refused(best(HYDRA_NODES[name]), [*BEST, *option]).startswith("hydra.")


ENV = "{PYTHONPATH: decoy}"
OTHER_FILES: dict[str, tuple[dict[str, str], list[str]]] = {
    "a preset with a target": (
        {
            "experiment/evil.yaml": f"{GLOBAL}trusted_targets: [decoy]\n"
            "model: {_target_: decoy.fire}"
        },
        ["experiment=evil"],
    ),
    "a preset that sets the environment": (
        {"experiment/evil.yaml": f"{GLOBAL}hydra: {{job: {{env_set: {ENV}}}}}"},
        ["experiment=evil"],
    ),
    "a model in the package of callbacks": (
        {"model/evil.yaml": "# @package hydra.callbacks.x\n_target_: decoy.fire"},
        ["model=evil"],
    ),
    "a model that includes a file for Hydra": (
        {
            "model/evil.yaml": "defaults:\n  - /data/evil@_global_.hydra.job.env_set\n  - mlp",
            "data/evil.yaml": "PYTHONPATH: decoy",
        },
        ["model=evil"],
    ),
    "a callback file that is typed into Hydra": (
        {"callbacks/evil.yaml": "x: {_target_: decoy.fire}"},
        ["+callbacks@hydra.callbacks=evil"],
    ),
    "a logging file that is chosen": (
        {"hydra/job_logging/evil.yaml": yaml.safe_dump(logging("filters", {"()": "decoy.fire"}))},
        ["hydra/job_logging=evil"],
    ),
    "a launcher file that is chosen": (
        {"hydra/launcher/evil.yaml": "_target_: decoy.fire"},
        ["hydra/launcher=evil"],
    ),
    "a choice of another launcher": (
        {"best.yaml": "defaults: [config, {override hydra/launcher: joblib}, _self_]"},
        ["--config-name", "best"],
    ),
    "a choice of another log": (
        {"best.yaml": "defaults: [config, {override hydra/job_logging: stdout}, _self_]"},
        ["--config-name", "best"],
    ),
    "a file in place of the sweeper": (
        {"hydra/sweeper/nntrain.yaml": "_target_: decoy.fire"},
        [],
    ),
    "a file in place of the schema": (
        {"schema.yaml": f"{GLOBAL}hydra: {{job: {{env_set: {ENV}}}}}"},
        [],
    ),
    "a file in place of Hydra's own config": (
        {"hydra/config.yaml": f"job: {{env_set: {ENV}}}"},
        [],
    ),
    "a sampler that is chosen": (
        {"hydra/sweeper/sampler/evil.yaml": "_target_: decoy.fire"},
        ["-m", "hydra/sweeper/sampler=evil", "lr=1,2"],
    ),
    "a target by interpolation": (
        {"model/evil.yaml": "_target_: ${name}"},
        ["model=evil", "+name=decoy.fire"],
    ),
    "a target from the environment": (
        {"model/evil.yaml": "_target_: ${oc.env:EVIL}"},
        ["model=evil"],
    ),
    "a node from a text": (
        {
            "model/evil.yaml": "_target_: torch.nn.Sequential\n"
            "a: ${oc.create:'{_target_: decoy.fire}'}"
        },
        ["model=evil"],
    ),
    "a server that gets the login": (
        {"tracker/evil.yaml": "defaults: [mlflow]\nmlflow: {tracking_uri: 'https://evil.example'}"},
        ["tracker=evil"],
    ),
    "a server whose name contains a secret": (
        {
            "tracker/evil.yaml": "defaults: [mlflow]\n"
            "mlflow: {tracking_uri: 'http://${oc.env:MLFLOW_TRACKING_PASSWORD}.evil.example'}"
        },
        ["tracker=evil"],
    ),
    "a server that looks local": (
        {
            "tracker/evil.yaml": "defaults: [mlflow]\n"
            "mlflow: {tracking_uri: 'http://evil.example\\@localhost/'}"
        },
        ["tracker=evil"],
    ),
    "a server of W&B": (
        {"tracker/evil.yaml": "defaults: [wandb]\nwandb: {base_url: 'https://evil.example'}"},
        ["tracker=evil"],
    ),
    "a run that is resumed": (
        {
            "experiment/evil.yaml": f"{GLOBAL}resume: conf/run",
            "run/.hydra/overrides.yaml": "- +hydra.job.env_set.PYTHONPATH=decoy",
        },
        ["experiment=evil"],
    ),
}


@pytest.mark.filterwarnings("ignore:(?s).*is validated against ConfigStore schema")
@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_foreign_folder_runs_nothing(name: str, refused: Refused) -> None:
    files, argv = OTHER_FILES[name]
    assert refused(files, ["--config-dir", "conf", *argv])


SAVED = [
    ["trusted_targets=[decoy]", "model._target_=decoy.fire"],
    ["+trusted_targets=[decoy]", "+callbacks.x._target_=decoy.fire"],
    ["++trusted_targets=[decoy]", "loss._target_=decoy.fire"],
    ["trusted_targets=[subprocess]", "model._target_=subprocess.Popen"],
    ["+hydra.callbacks.x._target_=decoy.fire"],
    ["+hydra.callbacks={x: {_target_: decoy.fire}}"],
    ["+hydra={callbacks: {x: {_target_: decoy.fire}}}"],
    ["++hydra={job: {env_set: {PYTHONPATH: decoy}}}"],
    ["+hydra.job.env_set.PYTHONPATH=decoy"],
    ["+hydra.job.env_set.GIT_CONFIG_COUNT=1"],
    ["hydra.job.env_copy=[EVIL]"],
    ["hydra.job={env_copy: [EVIL]}"],
    ["hydra.searchpath=[pkg://decoy]"],
    ["+hydra.searchpath=[pkg://decoy]"],
    ["hydra/launcher=joblib"],
    ["hydra/job_logging=none"],
    ["hydra/sweeper=basic"],
    ["hydra.launcher._target_=decoy.fire"],
    ["hydra.sweeper._target_=decoy.fire"],
    ["hydra.sweeper.sampler._target_=decoy.fire"],
    ["hydra.sweeper.custom_search_space=decoy.fire", "trusted_targets=[decoy]"],
    ["hydra.sweeper.storage=mysql://evil.example/db"],
    ["+hydra.job_logging.formatters.x={class: decoy.Handler}"],
    ["hydra.job_logging.handlers.file.class=decoy.Handler"],
    ["hydra.hydra_logging.root.level=ext://decoy.fire"],
    ["hydra.output_subdir=elsewhere"],
    ["+experiment@hydra.callbacks.x=digits_cnn"],
    ["+model@hydra.job.env_set=mlp"],
    ["tracker.mlflow.tracking_uri=https://evil.example"],
]


@pytest.mark.parametrize("lines", SAVED, ids=lambda lines: lines[-1])
def test_a_foreign_run_that_is_resumed_runs_nothing(lines: list[str], refused: Refused) -> None:
    files = {"run/.hydra/overrides.yaml": yaml.safe_dump(lines)}
    assert refused(files, ["resume=conf/run"])


TYPED = [
    ["model._target_=decoy.fire"],
    ["+hydra.callbacks.x._target_=decoy.fire"],
    ["hydra.launcher._target_=decoy.fire"],
    ["hydra.sweeper._target_=decoy.fire"],
    ["hydra.sweeper.custom_search_space=decoy.fire"],
    ["+hydra.job_logging.formatters.x={class: decoy.Handler}"],
    ["hydra.job_logging.handlers.file.class=decoy.Handler"],
    ["+hydra.job_logging.handlers.file.level=ext://decoy.fire"],
    ["+hydra.hydra_logging.handlers.x={class: decoy.Handler}"],
    ["trusted_targets=${names}", "+names=[decoy]", "model._target_=decoy.fire"],
    ["trusted_targets=['${name}']", "+name=decoy", "model._target_=decoy.fire"],
    ["-m", "trusted_targets=[a],[decoy]", "model._target_=decoy.fire"],
    ["--experimental-rerun", "conf/run.pickle"],
    ["--config-path", "pkg://decoy"],
    ["--config-dir", "pkg://decoy"],
]


@pytest.mark.parametrize("argv", TYPED, ids=lambda argv: argv[0] + argv[-1])
def test_what_is_typed_runs_nothing_without_trust(argv: list[str], refused: Refused) -> None:
    assert refused({"run.pickle": "cos\nsystem\n(S'touch harmed'\ntR."}, argv)


@pytest.mark.parametrize(
    "params",
    [
        {"hydra.job.env_set.PYTHONPATH": "decoy"},
        {"+hydra.callbacks.x._target_": "decoy.fire"},
        {"hydra": "{job: {env_set: {A: decoy}}}"},
        {"hydra/job_logging": "none"},
        {"+model@hydra.job.env_set": "mlp"},
        {"~hydra.job_logging": "null"},
    ],
    ids=repr,
)
def test_a_sweep_parameter_in_a_file_sets_no_key_of_hydra(params: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.params contains .*hydra"):
        make_space(params, ["lr=interval(0,1)"])


GOOD = {f"{group}/good.yaml": f"{GLOBAL}lr: 0.1" for group in ("experiment", "debug")}
PRESETS = {
    "sets the environment": f"hydra: {{job: {{env_set: {ENV}}}}}",
    "changes the log": yaml.safe_dump(
        {"hydra": {"job_logging": logging("filters", {"()": "decoy.fire"})}}
    ),
    "names a server": "tracker: {mlflow: {tracking_uri: 'https://evil.example'}}",
    "adds a callback": "hydra: {callbacks: {x: {_target_: decoy.fire}}}",
    "sweeps to a server": "hydra: {sweeper: {params: "
    "{tracker.mlflow.tracking_uri: 'choice(http://a.example,b)'}}}",
    "sweeps over other files": "hydra: {sweeper: {params: {debug: 'choice(good,evil)'}}}",
    "fixes another file": "hydra: {sweeper: {params: {debug: evil}}}",
}
SWEEPS = {
    "by commas": ["experiment=good,evil"],
    "by a choice": ["experiment=choice(good,evil)"],
    "by a glob": ["experiment=glob(*il)"],
    "with Hydra's sweeper": ["experiment=good,evil", "hydra/sweeper=basic"],
    "in a mode": ["experiment=good,evil", "hydra.mode=MULTIRUN"],
}


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, "by commas") for name in list(PRESETS)[:4]]
    + [("changes the log", how) for how in SWEEPS],
)
def test_every_foreign_file_that_a_sweep_may_choose_is_checked(
    name: str, how: str, refused: Refused
) -> None:
    files = {**GOOD, "experiment/evil.yaml": f"{GLOBAL}{PRESETS[name]}"}
    multirun = [] if how == "in a mode" else ["-m"]
    text = refused(files, ["--config-dir", "conf", *multirun, *SWEEPS[how]])
    assert "which is data and may not" in text


@pytest.mark.parametrize("name", list(PRESETS)[4:])
def test_what_a_foreign_preset_sweeps_over_is_checked(name: str, refused: Refused) -> None:
    files = {**GOOD, "experiment/evil.yaml": f"{GLOBAL}{PRESETS[name]}"}
    files["debug/evil.yaml"] = f"{GLOBAL}{PRESETS['sets the environment']}"
    text = refused(files, ["--config-dir", "conf", "-m", "experiment=evil", "lr=1,2"])
    assert "which is data and may not" in text


def test_too_many_foreign_combinations_are_not_checked_but_refused(refused: Refused) -> None:
    values = ",".join(["mlp", "cnn"] * 51)
    text = refused(GOOD, ["--config-dir", "conf", "-m", f"model={values}"])
    assert "more than 100 combinations" in text


# --- what remains allowed


def test_what_a_foreign_config_may_set_of_hydra_is_taken(tmp_path: Path) -> None:
    hydra = {
        "run": {"dir": "here"},
        "sweep": {"dir": "there", "subdir": "${hydra.job.num}"},
        "job": {"name": "mine", "chdir": True},
        "verbose": ["a.b"],
        "sweeper": {
            "n_trials": 3,
            "params": {
                "lr": "interval(0.1, 1)",
                "model": "choice(mlp, cnn)",
                "+a": None,
                "+b": {"c": [1, "x y"]},
                "+d": True,
            },
            "sampler": {"_target_": "optuna.samplers.RandomSampler"},
        },
    }
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "best.yaml").write_text(best(hydra)["best.yaml"])
    assert check_command_line(BEST) == BEST
    typed = [*BEST, "hydra/launcher=joblib", "+hydra.job.env_set.A=b"]
    assert check_command_line(typed) == typed
    assert check_command_line([*BEST, "-m", "lr=1,2"]) == [*BEST, "-m", "lr=1,2"]


def test_the_user_may_trust_a_config_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = best({"job": {"env_set": {"A": "b"}}}, model={"_target_": "decoy.fire"})
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "best.yaml").write_text(files["best.yaml"])
    (tmp_path / "config" / "nntrain").mkdir(parents=True)
    trust = tmp_path / "config" / "nntrain" / "trust.yaml"
    trust.write_text(f"trusted_folders: [{tmp_path / 'conf'}]")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert check_command_line(BEST) == [*BEST, "++trusted_targets=[decoy,torch]"]
    trust.write_text(f"trusted_folders: [{tmp_path / 'con'}]")
    with pytest.raises(ConfigError, match=r"hydra\.job\.env_set\.A is set by "):
        check_command_line(BEST)


def test_the_decoy_would_do_harm_if_it_were_trusted(unharmed: Callable[[], bool]) -> None:
    instantiate({"_target_": "decoy.fire"}, "model", ["decoy"])
    assert not unharmed()
    sys.modules.pop("decoy")


# --- through the real command line


@pytest.mark.slow
@pytest.mark.parametrize("option", [[], ["--help"], ["-m", "lr=1,2"]])
def test_the_command_refuses_a_foreign_log_before_hydra_reads_it(
    option: list[str], tmp_path: Path, unharmed: Callable[[], bool]
) -> None:
    (tmp_path / "conf").mkdir()
    for name in ("a formatter's factory", "an imported search path"):
        (tmp_path / "conf" / "best.yaml").write_text(best(HYDRA_NODES[name])["best.yaml"])
        done = nntrain_run(*BEST, *option, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith("nntrain: hydra.")
        assert unharmed()
