"""The gate: decides which `_target_` values may be imported and called.

A `_target_` runs code, and a configuration is data that may come from somebody else. A target is
accepted if it is in the catalog of explicit names (`nntrain.config.catalog`), or in a package that
the user trusts (`nntrain.config.trust`). All paths of a configuration are checked before anything
is imported. After the import, what was found must be defined in the package that was accepted.
For example, `mine.os.system` leads out of the trusted package `mine`.
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

from nntrain.config.catalog import (
    accepts,
    exports_of,
    is_known,
    is_known_to_hydra,
    siblings,
)
from nntrain.config.errors import ConfigError
from nntrain.config.hints import first_line, nearest

MOVED: Mapping[str, str] = {"nntrain.study_run.StudyRun": "nntrain.app.study_run.StudyRun"}
"""Maps target paths from version 0.1.0 to their new paths."""

EXTRAS: Mapping[str, str] = {
    "mlflow": "mlflow",
    "optuna": "sweeps",
    "torchmetrics": "metrics",
    "wandb": "wandb",
}
"""Maps optional packages to the nntrain extra that installs them."""

_OPEN = "the public classes of torch.nn, torch.optim and torchmetrics, and nntrain's own"
"""What a configuration may use without trust, for error messages."""

_LIBRARIES = ("hydra", "hydra_plugins", "nntrain", "optuna", "sklearn", "torch", "torchmetrics")
"""Packages of the catalog. To trust one of their modules, the user names that module."""

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


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


# --- the path


def check_targets(cfg: Any, trusted: Sequence[str] = ()) -> None:
    """Checks the paths of all `_target_` values in a configuration, without importing them.

    The key `hydra` may name launchers, sweepers, samplers and pruners only.

    Args:
        cfg: the configuration.
        trusted: packages that the user trusts.

    Raises:
        ConfigError: for the first target that is not trusted.
    """
    check_trusted_targets(trusted)
    for path, target in targets_in(cfg):
        if in_packages(path, ["hydra"]):
            _check_hydra_path(target, trusted, path)
        else:
            check_path(target, trusted, path)


def _check_hydra_path(target: Any, trusted: Sequence[str], key: str) -> None:
    if not isinstance(target, str) or not is_known_to_hydra(target):
        check_path(target, trusted, key)  # a mistake, a private name and so on
        if not in_packages(target, trusted):
            raise ConfigError(
                f"{key}._target_={target} is not trusted: Hydra may create launchers, sweepers, "
                f"samplers and pruners only, {_grant(target)}."
            )


def check_path(target: Any, trusted: Sequence[str], key: str) -> None:
    """Checks the path of one target, without importing it.

    Args:
        target: the value of `_target_`.
        trusted: packages that the user trusts, in addition to the catalog.
        key: the configuration key of the node, for error messages.

    Raises:
        ConfigError: if the target is not a dotted path, is not trusted, or is private.
    """
    if not isinstance(target, str) or not _DOTTED_NAME.fullmatch(target):
        raise ConfigError(
            f"{key}._target_={target!r} must be a dotted path such as 'nntrain.models.mlp'."
        )
    if target in MOVED:
        raise ConfigError(f"{key}._target_={target} has moved: use {MOVED[target]} instead.")
    package = next((package for package in trusted if in_packages(target, [package])), None)
    if _is_private(target, package):
        raise ConfigError(f"{key}._target_={target} is private: use a public function or class.")
    if package is None and not is_known(target):
        raise _untrusted(target, key)


def _is_private(target: str, package: str | None) -> bool:
    if package is None and target.split(".")[0] not in _LIBRARIES:
        return False  # not trusted, whatever its name is
    inside = target.removeprefix(package or "")
    return any(part.startswith("_") for part in inside.split("."))


def _untrusted(target: str, key: str) -> ConfigError:
    *_, name = target.split(".")
    if known := siblings(target):
        similar = nearest(name, known)
        return ConfigError(f"{key}._target_={target} cannot be used in a configuration: {similar}")
    return ConfigError(
        f"{key}._target_={target} is not trusted: choose from {_OPEN}, {_grant(target)}."
    )


def _grant(target: str) -> str:
    first, module = target.split(".")[0], target.rpartition(".")[0]
    needed = module if first in _LIBRARIES and module else first
    return f"or add 'trusted_targets=[{needed}]' to the command if you trust its code"


def check_function(path: str, trusted: Sequence[str], key: str) -> None:
    """Checks that a function of the user's own, named by its path, is in a trusted package.

    Raises:
        ConfigError: if it is not.
    """
    if not (_DOTTED_NAME.fullmatch(path) and in_packages(path, trusted)):
        raise ConfigError(f"{key}={path} is not trusted: {_grant(path).removeprefix('or ')}.")


# --- the import


def resolve_target(target: str, trusted: Sequence[str], key: str) -> Any:
    """Imports a target, after checking its path, and checks where it is defined.

    Raises:
        ConfigError: if the target is not trusted, does not exist, or leads to something that is
            defined elsewhere.
    """
    check_path(target, trusted, key)
    return _of_catalog(target, key) if is_known(target) else _of_package(target, trusted, key)


def _of_catalog(target: str, key: str) -> Any:
    module, _, name = target.rpartition(".")
    found = _attribute(_import(module, target, key), name, target, target, key)
    if not accepts(target, found):
        exports = exports_of(target)
        kind = exports.base.rpartition(".")[2] if exports else "function"
        raise ConfigError(
            f"{key}._target_={target} is not trusted: of {module}, a configuration can use the "
            f"subclasses of {kind} only."
        )
    return found


def _of_package(target: str, trusted: Sequence[str], key: str) -> Any:
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
    if not in_packages(home, trusted):
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
