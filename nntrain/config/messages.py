"""One-sentence error messages for invalid command lines and configurations."""

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
from nntrain.config.redact import redact_override


def sentence(err: Exception) -> str:
    """Converts an exception from Hydra or OmegaConf to a one-sentence error message."""
    for one in _chain(err):
        if isinstance(one, MissingConfigException):
            return _missing_config(one)
        if isinstance(one, OSError) and one.strerror:
            return f"{one.filename or 'A file'} cannot be used: {one.strerror}."
        if isinstance(one, OverrideParseException):
            override = redact_override(one.override or "")
            if isinstance(one.__cause__, TypeError | ValueError):
                return f"{override!r} cannot be parsed: {one.__cause__}."
            return (
                f"{override!r} is not a valid override: "
                "write key=value, +key=value or ~key, and quote special characters."
            )
        if isinstance(one, OmegaConfBaseException):
            return _omegaconf(one)
    text = " ".join(str(err).split())
    if text.startswith("Could not append"):
        text = f"{text} Remove the '+'."
    return text if text.endswith(".") else f"{text}."


def _chain(err: BaseException) -> Iterator[BaseException]:
    """Yields an exception and its causes, outermost first."""
    one: BaseException | None = err
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _missing_config(err: MissingConfigException) -> str:
    name = str(err.missing_cfg_file or "")
    if err.options:
        group, _, choice = name.rpartition("/")
        return f"Unknown choice {group}={choice}: {nearest(choice, err.options)}"
    return f"The config {name!r} does not exist: {_first_sentence(err)}"


def _omegaconf(err: OmegaConfBaseException) -> str:
    key = str(err.full_key or err.key or "")
    if isinstance(err, ConfigAttributeError | ConfigKeyError):
        last = key.rpartition(".")[2]
        siblings = (
            [str(name) for name in err.parent_node if not str(name).startswith("_")]
            if err.parent_node
            else []
        )
        hint = nearest(last, siblings)
        if not hint.endswith("?"):
            hint = f"{hint.removesuffix('.')}; to add a key, write '+{key}=VALUE'."
        return f"Unknown key {key}: {hint}"
    if isinstance(err, MissingMandatoryValue):
        return f"{key} needs a value: add '{key}=VALUE'."
    if isinstance(err, ValidationError) and "str is not a ListConfig" in str(err):
        return f"{key}={err.value} must be a list: write {key}=[{err.value}]."
    if isinstance(err, ValidationError):
        return (
            f"{key} needs a value, not null."
            if "not Optional" in str(err)
            else f"{key}: {_first_sentence(err)}"
        )
    if isinstance(err, InterpolationResolutionError):
        return f"{key} cannot be resolved: {_first_sentence(err)}"
    return _first_sentence(err)


def _first_sentence(err: BaseException) -> str:
    line = first_line(err)
    return line if line.endswith((".", "?")) else f"{line}."
