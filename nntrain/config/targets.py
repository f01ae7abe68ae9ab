"""The allow-list: which `_target_`s of a configuration may be imported and called.

A configuration may come from somebody else, and a `_target_` is code to run. So every target is checked before anything is
imported: its path must lie in a trusted package, and once imported it must turn out to be what that package itself defines,
not something else (`torch.nn.functional.torch.load`) that can be reached through it.
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
"""Packages whose own public functions and classes a configuration may name."""

HYDRA_TARGETS: tuple[str, ...] = (
    "hydra._internal.core_plugins",
    "hydra_plugins",
    "nntrain.app.study_run",
)
"""Packages that may be named below the key `hydra`: launchers, sweepers, and what acts round a sweep."""

EXTRAS: Mapping[str, str] = {
    "mlflow": "mlflow",
    "optuna": "sweeps",
    "torchmetrics": "metrics",
    "wandb": "wandb",
}
"""Optional packages, and the extra of nntrain that installs each."""

_TORCH_BUILTINS = ("torch._C",)
"""Where the compiled functions of `torch.nn.functional` say that they live."""

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def in_packages(path: str, packages: Iterable[str]) -> bool:
    """Whether a dotted path is one of the packages or lies below one."""
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def check_trusted_targets(trusted: Sequence[str]) -> None:
    """Checks that what the user trusts are package names.

    Raises:
        ConfigError: if one is not.
    """
    for name in trusted:
        if not _DOTTED_NAME.fullmatch(name):
            raise ConfigError(
                f"trusted_targets: {name!r} is no package name: give one such as 'mine' or 'mine.models'."
            )


def targets_in(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_` of a configuration with the key it stands under, however deep, interpolated ones included."""
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
    """The value with interpolations resolved; nothing for one that cannot be resolved yet and is no target."""
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
    """Checks every `_target_` of a whole configuration by its path, importing nothing.

    Raises:
        ConfigError: for the first one that is not in a trusted package.
    """
    check_trusted_targets(trusted)
    for path, target in targets_in(cfg):
        extra = HYDRA_TARGETS if path == "hydra" or path.startswith("hydra.") else ()
        check_path(target, (*TRUSTED_TARGETS, *trusted, *extra), path)


def check_path(target: Any, trusted: Sequence[str], key: str) -> None:
    """Checks one target by its path, importing nothing.

    Raises:
        ConfigError: if it is no dotted path, or not in a trusted package, or names something private.
    """
    if not isinstance(target, str) or not _DOTTED_NAME.fullmatch(target):
        raise ConfigError(
            f"{key}._target_={target!r} is no dotted path: give one such as 'nntrain.models.mlp'."
        )
    package = next((package for package in trusted if in_packages(target, [package])), None)
    if package is None:
        raise ConfigError(
            f"{key}._target_={target} is not trusted: choose from {', '.join(TRUSTED_TARGETS)}, or, if it is yours, "
            f"add 'trusted_targets=[{target.split('.')[0]}]'."
        )
    if any(part.startswith("_") for part in target.removeprefix(package).split(".")):
        raise ConfigError(f"{key}._target_={target} is private: name a public function or class.")


def resolve_target(target: str, trusted: Sequence[str], key: str) -> Any:
    """Imports a target whose path was checked, and checks that it is what its package defines.

    Raises:
        ConfigError: if there is no such name (the message gives the nearest), or it belongs to another package.
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
            f"{key}._target_={target} is no function or class but {type(found).__name__}."
        )
    home = getattr(found, "__module__", None) or type(found).__module__
    if not in_packages(home, (*trusted, *_TORCH_BUILTINS)):
        raise ConfigError(
            f"{key}._target_={target} is not trusted: it belongs to {home}, which would have to be trusted too."
        )
    return found


def _leads_to(module: str, trusted: Sequence[str]) -> bool:
    """Whether a module is trusted or on the way to a trusted one."""
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
            else "install it, or start where Python can import it"
        )
        raise ConfigError(
            f"{key}._target_={target}: there is no module {err.name}: {remedy}."
        ) from err


def _attribute(owner: Any, name: str, path: str, key: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    if hasattr(owner, "__path__") and importlib.util.find_spec(path) is not None:
        return _import(path, path, key)
    public = [known for known in dir(owner) if not known.startswith("_")]
    raise ConfigError(f"{key}._target_={path} does not exist: {nearest(name, public)}")
