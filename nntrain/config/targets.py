"""The allow-list of `_target_` values that may be imported and called.

A `_target_` runs code, and a configuration may come from an untrusted source. Every target is
therefore checked twice. Before the import, its path must be in a trusted package. After the import,
the function or class must be defined in a trusted package. For example, the path
`torch.nn.functional.torch.load` passes the first check but fails the second one.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
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
"""Packages whose public functions and classes can be used as a `_target_`."""

HYDRA_TARGETS: tuple[str, ...] = (
    "hydra._internal.core_plugins",
    "hydra_plugins",
    "nntrain.app.study_run",
)
"""Additional trusted packages within the key `hydra`: launchers, sweepers, study callbacks."""

MOVED: Mapping[str, str] = {"nntrain.study_run.StudyRun": "nntrain.app.study_run.StudyRun"}
"""Maps target paths from version 0.1.0 to their new paths."""

EXTRAS: Mapping[str, str] = {
    "mlflow": "mlflow",
    "optuna": "sweeps",
    "torchmetrics": "metrics",
    "wandb": "wandb",
}
"""Maps optional packages to the nntrain extra that installs them."""

_TORCH_BUILTINS = ("torch._C",)
"""The `__module__` of compiled functions in `torch.nn.functional`."""

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def in_packages(path: str, packages: Iterable[str]) -> bool:
    """Returns whether a dotted path is one of the packages, or is inside one of them."""
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def check_trusted_targets(trusted: Sequence[str]) -> None:
    """Checks that all entries of `trusted_targets` are package names.

    Raises:
        ConfigError: for the first entry that is not a package name.
    """
    for name in trusted:
        if not _DOTTED_NAME.fullmatch(name):
            raise ConfigError(
                f"trusted_targets contains {name!r}: expected a package name such as 'mine.models'."
            )


def targets_in(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields all `_target_` values in a configuration, including nested ones, with their keys."""
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
    """Returns the value of a key, with interpolations resolved.

    A missing value is returned as `None`. A value that cannot be resolved raises a `ConfigError` if
    it is `needed`, and is returned as `None` otherwise.
    """
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
    """Checks the paths of all `_target_` values in a configuration, without importing them.

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
        ConfigError: if the target is not a dotted path, is not in a trusted package, or is private.
    """
    if not isinstance(target, str) or not _DOTTED_NAME.fullmatch(target):
        raise ConfigError(
            f"{key}._target_={target!r} must be a dotted path such as 'nntrain.models.mlp'."
        )
    if target in MOVED:
        raise ConfigError(f"{key}._target_={target} has moved: use {MOVED[target]} instead.")
    package = next((package for package in trusted if in_packages(target, [package])), None)
    if package is None:
        raise ConfigError(
            f"{key}._target_={target} is not trusted: choose from {', '.join(TRUSTED_TARGETS)}, "
            f"or add 'trusted_targets=[{target.split('.')[0]}]' if you trust its code."
        )
    if any(part.startswith("_") for part in target.removeprefix(package).split(".")):
        raise ConfigError(f"{key}._target_={target} is private: use a public function or class.")


def resolve_target(target: str, trusted: Sequence[str], key: str) -> Any:
    """Imports a target, and checks that it is defined in a trusted package.

    Call `check_path` first.

    Raises:
        ConfigError: if the target does not exist, or is defined outside of the trusted packages.
    """
    first, *names = target.split(".")
    found: Any = _import(first, target, key)
    for i, name in enumerate(names, start=2):
        found = _attribute(found, name, ".".join(target.split(".")[:i]), target, key)
        if isinstance(found, ModuleType) and not _leads_to(found.__name__, trusted):
            raise ConfigError(
                f"{key}._target_={target} is not trusted: it refers to the module {found.__name__}."
            )
    if not callable(found):
        raise ConfigError(
            f"{key}._target_={target} must be a function or class but is {type(found).__name__}."
        )
    home = getattr(found, "__module__", None) or type(found).__module__
    if not in_packages(home, (*trusted, *_TORCH_BUILTINS)):
        raise ConfigError(f"{key}._target_={target} is not trusted: it is defined in {home}.")
    return found


def _leads_to(module: str, trusted: Sequence[str]) -> bool:
    """Returns whether a module is trusted, or contains a trusted package."""
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
            else "install it, or run the command in a folder where Python can import it"
        )
        raise ConfigError(
            f"{key}._target_={target} needs the module {err.name}: {remedy}."
        ) from err


def _attribute(owner: Any, name: str, path: str, target: str, key: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    if hasattr(owner, "__path__") and importlib.util.find_spec(path) is not None:
        return _import(path, path, key)
    hint = _hint(owner, name, path, is_last=path == target)
    raise ConfigError(f"{key}._target_={target} does not exist: {hint}")


def _hint(owner: Any, name: str, path: str, is_last: bool) -> str:
    submodules = [module.name for module in pkgutil.iter_modules(getattr(owner, "__path__", ()))]
    public = {known for known in (*dir(owner), *submodules) if not known.startswith("_")}
    similar = nearest(name, public)
    if not is_last:
        suggestion = f": {similar}" if similar.endswith("?") else "."
        return f"there is no module {path}{suggestion}"
    return similar if public else f"{path.rpartition('.')[0]} has no public names."
