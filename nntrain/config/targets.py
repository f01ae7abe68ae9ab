"""The allow-list: which `_target_`s of a configuration may be imported and called.

A `_target_` runs code, and a configuration may come from a stranger. Every target is therefore
checked twice. Before any import, its path must lie in a trusted package. After the import, that
package must define it: `torch.nn.functional.torch.load` is refused, as it only leads through one.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from nntrain.config.errors import ConfigError
from nntrain.config.hints import first_line, nearest

TRUSTED_TARGETS: tuple[str, ...] = (
    "nntrain.callbacks",
    "nntrain.data",
    "nntrain.integrations",
    "nntrain.losses",
    "nntrain.metrics",
    "nntrain.models",
    "nntrain.schedule",
    "nntrain.statistics",
    "nntrain.sweeps",
    "optuna.pruners",
    "optuna.samplers",
    "sklearn.metrics",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
)
"""Packages whose public functions and classes a configuration may name."""

HYDRA_TARGETS: tuple[str, ...] = (
    "hydra._internal.core_plugins",
    "hydra_plugins",
    "nntrain.app.study_run",
)
"""Further packages for targets below the key `hydra`: launchers, sweepers, study callbacks."""

MOVED: Mapping[str, str] = {"nntrain.study_run.StudyRun": "nntrain.app.study_run.StudyRun"}
"""Targets of version 0.1.0 that have a new path."""

EXTRAS: Mapping[str, str] = {
    "mlflow": "mlflow",
    "optuna": "sweeps",
    "torchmetrics": "metrics",
    "wandb": "wandb",
}
"""The extra of nntrain that installs each optional package."""

_TORCH_BUILTINS = ("torch._C",)
"""The `__module__` of compiled functions in `torch.nn.functional`."""

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def in_packages(path: str, packages: Iterable[str]) -> bool:
    """Returns whether a dotted path is one of the packages or lies in one."""
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def check_trusted_targets(trusted: Sequence[str]) -> None:
    """Checks that `trusted_targets` holds package names.

    Raises:
        ConfigError: if an entry is not a package name.
    """
    for name in trusted:
        if not _DOTTED_NAME.fullmatch(name):
            raise ConfigError(
                f"trusted_targets: {name!r} is not a package name, such as 'mine' or 'mine.models'."
            )


def targets_in(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every `_target_` of a configuration with its key, at any depth, interpolated."""
    if isinstance(node, DictConfig | Mapping):
        for key in node:
            below = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield path, _value(node, key, needed=True)
            else:
                yield from targets_in(_value(node, key), below)
    elif isinstance(node, ListConfig | list | tuple):
        for i in range(len(node)):
            yield from targets_in(_value(node, i), f"{path}[{i}]")


def _value(node: Any, key: Any, needed: bool = False) -> Any:
    """Returns a resolved value; `None` if it cannot be resolved yet and is not needed."""
    if not isinstance(node, DictConfig | ListConfig):
        return node[key]
    if OmegaConf.is_missing(node, key):
        return None
    try:
        return node[key]
    except InterpolationResolutionError as err:
        if needed:
            raise ConfigError(
                f"{node._get_full_key(key)} cannot be resolved: {first_line(err)}."
            ) from err
        return None


def check_targets(cfg: Any, trusted: Sequence[str] = ()) -> None:
    """Checks the path of every `_target_` of a configuration, without importing it.

    Raises:
        ConfigError: for the first target that is not in a trusted package.
    """
    check_trusted_targets(trusted)
    for path, target in targets_in(cfg):
        extra = HYDRA_TARGETS if path == "hydra" or path.startswith("hydra.") else ()
        check_path(target, (*TRUSTED_TARGETS, *trusted, *extra), path)


def check_path(target: Any, trusted: Sequence[str], key: str) -> None:
    """Checks the path of one target, without importing it.

    Raises:
        ConfigError: if it is not a dotted path, not in a trusted package, or private.
    """
    if not isinstance(target, str) or not _DOTTED_NAME.fullmatch(target):
        raise ConfigError(
            f"{key}._target_={target!r} is not a dotted path, such as 'nntrain.models.mlp'."
        )
    if target in MOVED:
        raise ConfigError(f"{key}._target_={target} has moved: write {MOVED[target]}.")
    package = next((package for package in trusted if in_packages(target, [package])), None)
    if package is None:
        raise ConfigError(
            f"{key}._target_={target} is not trusted: choose from {', '.join(TRUSTED_TARGETS)}, "
            f"or, if it is yours, add 'trusted_targets=[{target.split('.')[0]}]'."
        )
    if any(part.startswith("_") for part in target.removeprefix(package).split(".")):
        raise ConfigError(f"{key}._target_={target} is private: name a public function or class.")


def resolve_target(target: str, trusted: Sequence[str], key: str) -> Any:
    """Imports a target whose path was checked, and checks that its package defines it.

    Raises:
        ConfigError: if it does not exist (the message suggests the closest match), or another
            package defines it.
    """
    first, *names = target.split(".")
    found: Any = _import(first, target, key)
    for i, name in enumerate(names, start=2):
        found = _attribute(found, name, ".".join(target.split(".")[:i]), key)
        if isinstance(found, ModuleType) and not _leads_to(found.__name__, trusted):
            raise ConfigError(
                f"{key}._target_={target} is not trusted: it leads to the module {found.__name__}."
            )
    if not callable(found):
        raise ConfigError(
            f"{key}._target_={target} must be a function or class but is {type(found).__name__}."
        )
    home = getattr(found, "__module__", None) or type(found).__module__
    if not in_packages(home, (*trusted, *_TORCH_BUILTINS)):
        raise ConfigError(
            f"{key}._target_={target} is not trusted: it belongs to {home}, which is not trusted."
        )
    return found


def _leads_to(module: str, trusted: Sequence[str]) -> bool:
    """Returns whether a module is trusted, or a parent of a trusted one."""
    return in_packages(module, trusted) or any(
        package.startswith(f"{module}.") for package in trusted
    )


def _import(module: str, target: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name is None or not in_packages(target, [err.name]):
            raise
        extra = EXTRAS.get(module.split(".")[0])
        remedy = (
            f"pip install 'nntrain[{extra}]'"
            if extra
            else "install it, or start in a folder where Python can import it"
        )
        raise ConfigError(
            f"{key}._target_={target} needs the module {err.name}: {remedy}."
        ) from err


def _attribute(owner: Any, name: str, path: str, key: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    if hasattr(owner, "__path__") and importlib.util.find_spec(path) is not None:
        return _import(path, path, key)
    public = [known for known in dir(owner) if not known.startswith("_")]
    raise ConfigError(f"{key}._target_={path} does not exist: {nearest(name, public)}")
