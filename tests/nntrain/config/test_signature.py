"""Arguments are checked against the signature of a target before the target is called."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from nntrain.config.errors import ConfigError
from nntrain.config.hints import nearest
from nntrain.config.signature import check_call, fits, type_name


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        ("1", int, False),
        (1, float, True),
        (True, float, False),
        ("abc", float, False),
        ("abc", str, True),
        (1, str, False),
        (False, bool, True),
        (0, bool, False),
        (None, int, False),
        (None, int | None, True),
        ("x", int | None, False),
        ([1, 2], Sequence[int], True),
        ([1, "a"], Sequence[int], False),
        (3, Sequence[int], False),
        ("ab", Sequence[str], False),
        ([0.9, 0.99], tuple[float, float], True),
        ([0.9], tuple[float, float], False),
        ([1, 2, 3], tuple[int, ...], True),
        (3, int | Sequence[int], True),
        ("max", Literal["min", "max"], True),
        ("mx", Literal["min", "max"], False),
        ({"a": 1}, Mapping[str, int], True),
        ([1], Mapping[str, int], False),
        ({"_target_": "torch.nn.ReLU"}, int, True),
        ("cpu", torch.device, True),
        ("out", Path, True),
        (3, Path, False),
        ("relu", torch.nn.Module, False),
        ("anything", Any, True),
        ("anything", object, True),
        (None, object, True),
    ],
)
def test_a_value_fits_a_type_or_not(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, "int"),
        (int | None, "int or null"),
        (int | Sequence[int], "int or a list of int"),
        (Literal["min", "max"], "one of 'min', 'max'"),
        (Mapping[str, int], "a mapping"),
    ],
)
def test_a_type_is_described_in_words(hint: Any, expected: str) -> None:
    assert type_name(hint) == expected


def _make(n: int, name: str = "a", *, scale: float = 1.0) -> None: ...


def _open(**kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("func", "node", "message"),
    [
        (_make, {"n": 1, "scal": 2.0}, r"Unknown key key\.scal for f: did you mean 'scale'\?"),
        (_make, {"n": 1, "zzz": 2.0}, r"expected one of n, name, scale"),
        (_make, {"n": "three"}, r"key\.n='three' has the wrong type: f expects int"),
        (_make, {"name": "b"}, r"key\.n is required by f: add '\+key\.n=VALUE'"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_its_key(
    func: Callable[..., Any], node: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_call(func, {"_target_": "f", **node}, "key")


@pytest.mark.parametrize(
    ("func", "node"),
    [
        (_make, {"n": 1}),
        (_make, {"_partial_": True}),
        (_make, {"_args_": [1]}),
        (_open, {"anything": 1}),
        (torch.nn.Linear, {"in_features": 2, "out_features": 3}),
        (torch.optim.SGD, {"_partial_": True, "momentum": 0.9}),
    ],
)
def test_valid_arguments_pass(func: Callable[..., Any], node: dict[str, Any]) -> None:
    check_call(func, {"_target_": "f", **node}, "key")


def test_nearest_lists_all_names_if_none_is_similar() -> None:
    assert nearest("zzz", ["b", "a"]) == "expected one of a, b."
