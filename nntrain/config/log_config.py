"""The gate for logging configurations, in which Python resolves names and calls factories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nntrain.config.errors import ConfigError
from nntrain.config.hints import first_line
from nntrain.config.targets import in_packages

CLASSES = (
    "colorlog.ColoredFormatter",
    "logging.FileHandler",
    "logging.Formatter",
    "logging.NullHandler",
    "logging.StreamHandler",
    "logging.handlers.RotatingFileHandler",
    "logging.handlers.TimedRotatingFileHandler",
    "nntrain.config.log_file.LogFile",
    "rich.logging.RichHandler",
)
"""Handlers and formatters that a logging configuration may create."""

STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
"""Objects that a logging configuration may refer to."""

_FACTORIES = ("()", "class", "factory", "listener", "queue")
"""Keys whose value Python's `logging.config` resolves and calls."""


def check_logging(cfg: DictConfig, trusted: Sequence[str] = ()) -> None:
    """Checks `hydra.job_logging` and `hydra.hydra_logging` before Hydra configures logging.

    Raises:
        ConfigError: for the first name that is neither in `CLASSES` or `STREAMS` nor trusted.
    """
    for name in ("job_logging", "hydra_logging"):
        for key, value in _texts(cfg.hydra.get(name), f"hydra.{name}"):
            _check(key, value, trusted)


def _check(key: str, value: Any, trusted: Sequence[str]) -> None:
    is_factory = key.rpartition(".")[2] in _FACTORIES
    text = str(value)
    if is_factory and text in CLASSES:
        return
    path = text.partition("://")[2] if text.startswith(("ext://", "cfg://")) else text
    if (is_factory or path != text) and text not in STREAMS and not in_packages(path, trusted):
        raise ConfigError(
            f"{key}={text} is not trusted: choose from {', '.join((*CLASSES, *STREAMS))}, or add "
            f"'trusted_targets=[{path.split('.')[0]}]' to the command if you trust its code."
        )


def _texts(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yields the values of a logging configuration, with interpolations resolved if possible.

    The run folder is unknown before the run, so a path in it stays as it is.
    """
    if isinstance(node, DictConfig | Mapping):
        for name in node:
            below = f"{key}.{name}"
            if name in _FACTORIES:
                yield below, _resolved(node, name, below)
            else:
                yield from _texts(_value(node, name), below)
    elif isinstance(node, str):
        yield key, node
    elif isinstance(node, Sequence):
        for i in range(len(node)):
            yield from _texts(_value(node, i), f"{key}[{i}]")


def _value(node: Any, name: Any) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException:
        return OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index]


def _resolved(node: Any, name: Any, key: str) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException as err:
        raise ConfigError(f"{key} cannot be resolved: {first_line(err)}.") from err
