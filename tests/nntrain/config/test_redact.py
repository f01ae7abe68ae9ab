"""Secrets are known by their key, or as the login inside a URL."""

from typing import Any

import pytest

from nntrain.config.redact import is_secret, redact, redact_override


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("api_key", True),
        ("apikey", True),
        ("wandb.api_key", True),
        ("db_password", True),
        ("PASSWORD", True),
        ("hf_token", True),
        ("tokens", True),
        ("client_secret", True),
        ("use_cls_token_count", False),
        ("num_memory_tokens_per_head", False),
        ("tokenizer", False),
        ("key", False),
        ("secretary", False),
    ],
)
def test_secret_keys(key: str, expected: bool) -> None:
    assert is_secret(key) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": {"api_key": "S"}}, {"a": {"api_key": "***"}}),
        ({"tokens": ["S", "S"]}, {"tokens": ["***", "***"]}),
        ({"uri": "postgresql://me:S@host/db"}, {"uri": "postgresql://***@host/db"}),
        ({"uri": "https://host/a@b"}, {"uri": "https://host/a@b"}),
        ({"password": None, "lr": 0.1}, {"password": None, "lr": 0.1}),
    ],
)
def test_secret_values_are_replaced(value: Any, expected: Any) -> None:
    assert redact(value) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("+api_key=S", "+api_key=***"),
        ("tracker.mlflow.tracking_uri=http://u:S@h", "tracker.mlflow.tracking_uri=http://***@h"),
        ("lr=0.1", "lr=0.1"),
        ("-m", "-m"),
        ("~callbacks.progress", "~callbacks.progress"),
    ],
)
def test_secret_overrides_are_replaced(override: str, expected: str) -> None:
    assert redact_override(override) == expected
