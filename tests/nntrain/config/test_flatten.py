"""Nested configurations are flattened to dotted keys."""

from nntrain.config.flatten import flatten


def test_flatten_joins_keys_by_dots_and_keeps_lists() -> None:
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [1, 2], "e": None}
