"""One sentence for each way in which a command line or a configuration can be wrong."""

from __future__ import annotations

from collections.abc import Iterator

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from nntrain.config.hints import first_line, nearest
from nntrain.config.redact import redact


def sentence(err: Exception) -> str:
    """What was wrong, what was expected, and what to do, for an error of Hydra's or OmegaConf's."""
    for one in _chain(err):
        if isinstance(one, MissingConfigException):
            return _missing_config(one)
        if isinstance(one, OverrideParseException):
            override = redact(one.override)
            if isinstance(one.__cause__, TypeError | ValueError):
                return f"{override!r} cannot be read: {one.__cause__}."
            return f"{override!r} is no override: write key=value, +key=value or ~key, special characters in quotes."
        if isinstance(one, OmegaConfBaseException):
            return _omegaconf(one)
    text = " ".join(str(err).split())
    if text.startswith("Could not append"):
        text = f"{text} Leave out the +."
    return text if text.endswith(".") else f"{text}."


def _chain(err: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    one: BaseException | None = err
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _missing_config(err: MissingConfigException) -> str:
    name = str(err.missing_cfg_file or "")
    if err.options:
        group, _, choice = name.rpartition("/")
        return f"{group}={choice} is no choice of {group}: expected one of {', '.join(sorted(err.options))}."
    return f"There is no config {name!r}: {_first_line(err)}"


def _omegaconf(err: OmegaConfBaseException) -> str:
    key = str(err.full_key or err.key or "")
    if isinstance(err, ConfigAttributeError | ConfigKeyError):
        parent, _, last = key.rpartition(".")
        siblings = (
            [str(name) for name in err.parent_node if not str(name).startswith("_")]
            if err.parent_node
            else []
        )
        where = f" of {parent}" if parent else ""
        hint = nearest(last, siblings)
        more = "" if hint.endswith("?") else f" (To add a key, write +{key}=VALUE.)"
        return f"{key} is no key{where}: {hint}{more}"
    if isinstance(err, MissingMandatoryValue):
        return f"{key} needs a value: add '{key}=VALUE'."
    if isinstance(err, ValidationError):
        return (
            f"{key} needs a value, not null."
            if "not Optional" in str(err)
            else f"{key}: {_first_line(err)}"
        )
    if isinstance(err, InterpolationResolutionError):
        return f"{key} cannot be resolved: {_first_line(err)}"
    return _first_line(err)


def _first_line(err: BaseException) -> str:
    line = first_line(err)
    return line if line.endswith((".", "?")) else f"{line}."
