"""The search space: converts overrides to Optuna distributions, and parameters to overrides."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    OverrideType,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from nntrain.config.redact import REDACTED, Redactor, redact_override, redact_text
from nntrain.sweeps.errors import SweepError

Value = bool | int | float | str | None
"""The value of a parameter in Optuna."""


@dataclass(frozen=True)
class Space:
    """A search space: the overrides shared by all trials, and the distribution of each parameter.

    Attributes:
        fixed: overrides that are the same in all trials.
        distributions: Optuna's distribution of each parameter. The name of a parameter is its key
            in an override, including a leading `+`.
        literals: for each parameter, the choices that are lists or mappings. Optuna stores these
            choices as strings in Hydra's override syntax.
        hidden: for each parameter whose choices are secrets, its choices in Hydra's override
            syntax. The study stores `***1` for the first choice, `***2` for the second, and so on.
    """

    fixed: Sequence[str] = ()
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    literals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hidden: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def overrides(self, params: Mapping[str, Value]) -> list[str]:
        """Returns the overrides that set a trial's parameters."""
        return [f"{name}={self._text(name, value)}" for name, value in params.items()]

    def overrides_of(self, name: str, values: Iterable[Value]) -> list[str]:
        """Returns the overrides that set a parameter to each of some values."""
        return [f"{name}={self._text(name, value)}" for value in values]

    def _text(self, name: str, value: Value) -> str:
        if name in self.hidden:
            return self.hidden[name][int(str(value).removeprefix(REDACTED)) - 1]
        if isinstance(value, str):
            return value if value in self.literals.get(name, ()) else _quoted(value)
        return str(Override._get_value_element_as_str(value))

    def stored(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """Returns parameters as the study stores them, with the labels of hidden choices."""
        return {name: self._label(name, value) for name, value in params.items()}

    def _label(self, name: str, value: Value) -> Value:
        texts = self.hidden.get(name, ())
        text = _quoted(value) if isinstance(value, str) else str(value)
        return f"{REDACTED}{texts.index(text) + 1}" if text in texts else value

    def secrets(self) -> dict[str, list[str]]:
        """Returns the choices that are secrets, with and without their quotes, by parameter."""
        return {
            name: [*texts, *(text.strip("'\"") for text in texts)]
            for name, texts in self.hidden.items()
        }

    def describe(self) -> dict[str, str]:
        """Returns a description of each parameter.

        A study can be resumed only if these descriptions have not changed.
        """
        return {name: _words(distribution) for name, distribution in self.distributions.items()}

    @property
    def size(self) -> int | None:
        """The number of configurations; `None` if there are infinitely many."""
        sizes = [
            len(values) if (values := grid_values(one)) is not None else None
            for one in self.distributions.values()
        ]
        return math.prod(sizes) if None not in sizes else None  # type: ignore[arg-type]


_NO_TEXTS = ("true", "false", "null", "nan", "inf")


def _quoted(text: str) -> str:
    """Quotes a string unless Hydra reads it as the same string without quotes."""
    is_word = re.fullmatch(r"[A-Za-z_][\w./-]*", text, re.ASCII) and text.lower() not in _NO_TEXTS
    return text if is_word else QuotedString(text, Quote.single).with_quotes()


def make_space(
    params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader | None = None
) -> Space:
    """Reads the search space from `hydra.sweeper.params` and the command line.

    If both define the same key, the command line takes precedence.

    Args:
        params: a mapping from keys to right-hand sides of overrides, or to fixed values.
        arguments: overrides from the command line.
        loader: lists the options of a config group for `glob(...)`.

    Raises:
        SweepError: if Optuna cannot sample an override; the message contains the override.
    """
    texts = [f"{key}={_param_text(value)}" for key, value in params.items()]
    parser = OverridesParser.create(config_loader=loader)
    from_config = [_parsed(parser, text) for text in texts]
    for one in from_config:
        _check_no_hydra(one)
    given = [*from_config, *(_parsed(parser, text) for text in arguments)]
    last = {one.get_key_element().lstrip("+"): one for one in given}
    fixed, distributions, literals, hidden = [], {}, {}, {}
    for one in last.values():
        if not one.is_sweep_override():
            fixed.append(_fixed(one))
            continue
        key = one.get_key_element()
        if one.is_hydra_override():
            raise SweepError(
                f"{key} is a Hydra setting and cannot be swept over: choose a key of your "
                "application."
            )
        distributions[key], literals[key] = _distribution(one)
        if texts := _secret_choices(key, distributions[key], literals[key]):
            hidden[key] = texts
            distributions[key] = _labels(len(texts))
    return Space(
        fixed, distributions, {key: choices for key, choices in literals.items() if choices}, hidden
    )


def _secret_choices(key: str, one: BaseDistribution, literals: Sequence[str]) -> list[str]:
    """Returns the choices of a parameter as Hydra's syntax if they are secrets, otherwise `[]`.

    The names of their environment variables do not count, nor do `null`, `true` and `false`.
    """
    if not isinstance(one, CategoricalDistribution):
        return []
    space = Space(literals={key: literals})
    overrides = space.overrides_of(key, one.choices)
    # the secrets that this process knows do not count, so that the study can be resumed elsewhere
    redact = Redactor().override
    if all(redact(override) == override for override in overrides):
        return []
    return [override.partition("=")[2] for override in overrides]


def _labels(n: int) -> CategoricalDistribution:
    return CategoricalDistribution([f"{REDACTED}{i + 1}" for i in range(n)])


def _parsed(parser: OverridesParser, text: str) -> Override:
    try:
        override = parser.parse_overrides([text])[0]
    except HydraException as err:
        lines = [
            line
            for line in str(err).splitlines()
            if not line.startswith(("Error parsing override", "See http"))
        ]
        shown = redact_override(text)
        raise SweepError(
            f"{shown} is not a valid override: {redact_text(' '.join(lines))}."
        ) from err
    if not override.key_or_group:
        raise SweepError(f"{text} has no key: write KEY=VALUE.")
    return override


def _check_no_hydra(one: Override) -> None:
    """Checks that a parameter in a config file sets no key of Hydra, such as its logging."""
    for name in (one.key_or_group, one.package or ""):
        if re.split(r"[./]", name.lstrip("@"))[0] == "hydra":
            raise SweepError(
                f"hydra.sweeper.params contains {one.get_key_element()}, a Hydra setting: choose "
                "keys of your application, or type the setting in the command."
            )


def _param_text(value: Any) -> str:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    return value if isinstance(value, str) else str(Override._get_value_element_as_str(value))


def _fixed(override: Override) -> str:
    if override.type is OverrideType.DEL:
        return str(override.input_line)
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _distribution(override: Override) -> tuple[BaseDistribution, list[str]]:
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value), []
        if isinstance(value, RangeSweep):
            return _range(value), []
        return _choice(override)
    except ValueError as err:
        raise SweepError(f"{override.input_line} cannot be sampled: {err}") from err


def _is_log(tags: set[str]) -> bool:
    if unknown := tags - {"log"}:
        raise ValueError(f"the only supported tag is log, found {', '.join(sorted(unknown))}.")
    return "log" in tags


def _interval(sweep: IntervalSweep) -> BaseDistribution:
    start, end = sweep.start, sweep.end
    assert start is not None
    assert end is not None
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError("both bounds must be finite.")
    if end < start:
        raise ValueError(f"the upper bound {end:g} is less than the lower bound {start:g}.")
    # Hydra converts the bounds to floats in interval(a, b), but not in int(interval(a, b))
    if isinstance(start, int) and isinstance(end, int):
        return IntDistribution(start, end, log=_is_log(sweep.tags))
    return FloatDistribution(start, end, log=_is_log(sweep.tags))


def _range(sweep: RangeSweep) -> BaseDistribution:
    """Converts a range to a distribution.

    Decimal arithmetic avoids rounding errors: `range(0, 0.9, 0.3)` must exclude 0.9.
    """
    given = (sweep.start, sweep.stop, sweep.step)
    start, stop, step = (Decimal(str(value)) for value in given)
    if not step:
        raise ValueError("the step must not be 0.")
    n = math.ceil((stop - start) / step)
    if n < 1:
        raise ValueError(
            f"the range from {sweep.start} to {sweep.stop} in steps of {sweep.step} is empty (the "
            "end is excluded)."
        )
    low, high = sorted((start, start + (n - 1) * step))
    if _is_log(sweep.tags):
        if not all(isinstance(value, int) for value in given) or sweep.step != 1:
            raise ValueError(
                "a logarithmic range cannot have a step: use tag(log, interval(a, b)) or "
                "tag(log, int(interval(a, b)))."
            )
        return IntDistribution(int(low), int(high), log=True)
    if all(isinstance(value, int) for value in given):
        return IntDistribution(int(low), int(high), step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def _choice(override: Override) -> tuple[BaseDistribution, list[str]]:
    """Converts choices to a distribution; also returns the choices that became strings.

    Optuna can neither store lists and mappings nor distinguish `1` from `true`, so such choices
    become strings in Hydra's override syntax.
    """
    sweep = override._value
    if isinstance(sweep, ChoiceSweep):
        if sweep.tags:
            raise ValueError("a choice cannot have a tag.")
        # do not shuffle: a study can be resumed only with the same choices in the same order
        override = replace(override, _value=replace(sweep, shuffle=False))
    elements = list(override.sweep_iterator())
    if not elements:
        raise ValueError("at least one choice is required.")
    plain: list[Any] = [Override._convert_value(element) for element in elements]
    texts = [
        _quoted(value) if isinstance(value, str) else str(Override._get_value_element_as_str(one))
        for value, one in zip(plain, elements, strict=True)
    ]
    are_texts = [not _is_plain(value) for value in plain]
    if _has_equal_numbers(plain):
        are_texts = [True] * len(plain)
    values: list[Value] = [
        text if is_text else value
        for value, text, is_text in zip(plain, texts, are_texts, strict=True)
    ]
    literals = [text for text, is_text in zip(texts, are_texts, strict=True) if is_text]
    return CategoricalDistribution(list(dict.fromkeys(values))), literals


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str) or value is None


def _has_equal_numbers(values: Sequence[Any]) -> bool:
    """Returns whether choices differ only in their type, such as `1` and `true`.

    Optuna compares choices with `==`, and `1 == True == 1.0` in Python.
    """
    plain = [value for value in values if _is_plain(value)]
    return len(set(plain)) < len({(type(value), value) for value in plain})


def grid_values(distribution: BaseDistribution) -> list[Value] | None:
    """Returns all values of a distribution in order; `None` if there are infinitely many."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        return list(_steps(distribution.low, distribution.high, distribution.step))
    return None


def _steps(low: float, high: float, step: float) -> Iterator[float]:
    """Yields all values from `low` to `high`, computed in decimal arithmetic.

    Binary arithmetic would accumulate rounding errors: ten steps of 0.1 must equal 1.0.
    """
    first, width = Decimal(str(low)), Decimal(str(step))
    for i in range(int((Decimal(str(high)) - first) / width) + 1):
        yield float(first + i * width)


def _words(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({', '.join(map(str, distribution.choices))})"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    kind = "int" if isinstance(distribution, IntDistribution) else "float"
    has_steps = distribution.step is not None and (kind == "float" or distribution.step != 1)
    step = f" in steps of {distribution.step:.15g}" if has_steps else ""
    log = ", log" if distribution.log else ""
    return f"{kind} from {distribution.low:.15g} to {distribution.high:.15g}{step}{log}"


def first_params(space: Space) -> dict[str, Value]:
    """Returns the first choice or the lower bound of each parameter."""
    found: dict[str, Value] = {}
    for name, one in space.distributions.items():
        if isinstance(one, CategoricalDistribution):
            found[name] = one.choices[0]
        elif isinstance(one, IntDistribution | FloatDistribution):
            found[name] = one.low
    return found


def one_by_one(space: Space) -> Iterator[dict[str, Value]]:
    """Yields configurations that differ from `first_params` in one choice.

    Each string is tried, because it may select a config file. Other values are tried once per type.
    """
    first = first_params(space)
    for name, one in space.distributions.items():
        seen = {type(first[name])}
        for value in one.choices if isinstance(one, CategoricalDistribution) else ():
            if value != first[name] and (isinstance(value, str) or type(value) not in seen):
                seen.add(type(value))
                yield {**first, name: value}


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Returns whether a distribution contains a value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):  # an unknown choice, or a string instead of a number
        return False


def suggest(trial: Trial, space: Space) -> None:
    """Samples a value for each parameter of a trial."""
    for name, one in space.distributions.items():
        if isinstance(one, CategoricalDistribution):
            trial.suggest_categorical(name, one.choices)
        elif isinstance(one, IntDistribution):
            trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
        elif isinstance(one, FloatDistribution):
            trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)


def custom_function(path: str | None) -> Callable[[DictConfig, Trial], None] | None:
    """Imports the user's function that adds parameters to a trial.

    Returns `None` if `path` is `None`.

    Raises:
        SweepError: if the import fails.
    """
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    try:
        found: Callable[[DictConfig, Trial], None] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as err:
        raise SweepError(
            f"hydra.sweeper.custom_search_space={path} cannot be imported: {err}."
        ) from err
    return found
