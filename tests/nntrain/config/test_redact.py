"""Secrets are found by key, by patterns in strings, and by value."""

import json
import time
from typing import Any

import pytest

from nntrain.config.errors import ConfigError
from nntrain.config.redact import Redactor, is_secret, redact

S = "Zq7-x9_hunter2"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("api_key", True),
        ("apikey", True),
        ("apiKey", True),
        ("X-Api-Key", True),
        ("wandb.api_key", True),
        ("api_key_prod", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("db_password", True),
        ("dbPassword", True),
        ("PASSWORD", True),
        ("PGPASSWORD", True),
        ("MYSQL_PWD", True),
        ("hf_token", True),
        ("accessToken", True),
        ("use_auth_token", True),
        ("tracker.image.token", True),
        ("image_pull_token", True),
        ("tokens", True),
        ("client_secret", True),
        ("credentials", True),
        ("connectionString", True),
        ("Authorization", True),
        ("use_cls_token", False),
        ("use_cls_token_count", False),
        ("num_memory_tokens", False),
        ("num_memory_tokens_per_head", False),
        ("n_extra_tokens", False),
        ("model.max_new_tokens", False),
        ("model.bos_token", False),
        ("token_dim", False),
        ("tokenizer", False),
        ("PWD", False),
        ("OLDPWD", False),
        ("key", False),
        ("sort_key", False),
        ("monkeys", False),
        ("secretary", False),
        ("lr", False),
    ],
)
def test_secret_keys(key: str, expected: bool) -> None:
    assert is_secret(key) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": {"api_key": "S"}}, {"a": {"api_key": "***"}}),
        ({"tokens": ["S", "S"]}, {"tokens": ["***", "***"]}),
        (
            {"api_keys": {"a": "S", "b": [{"c": "S"}]}},
            {"api_keys": {"a": "***", "b": [{"c": "***"}]}},
        ),
        ({"password": 1234}, {"password": "***"}),
        ({"uri": "postgresql://me:S@host/db"}, {"uri": "postgresql://***@host/db"}),
        ({"uri": "https://host/a@b"}, {"uri": "https://host/a@b"}),
        ({"lines": ["see https://h/?token=S", 3]}, {"lines": ["see https://h/?token=***", 3]}),
        ({"password": None, "lr": 0.1}, {"password": None, "lr": 0.1}),
        (
            {"token": True, "secret": "", "api_key": "???"},
            {"token": True, "secret": "", "api_key": "???"},
        ),
        ({"api_key": "${oc.env:KEY}"}, {"api_key": "${oc.env:KEY}"}),
        ({"api_key": "${oc.env:KEY,S}"}, {"api_key": "***"}),
        ({"tokens": 4096}, {"tokens": 4096}),
        ({"api_key": "choice(***1, ***2)"}, {"api_key": "choice(***1, ***2)"}),
        ({"api_key": "choice(***1, S)"}, {"api_key": "***"}),
        ({"jwt": "float from 0.1 to 1e-05, log"}, {"jwt": "float from 0.1 to 1e-05, log"}),
        ({1: (2, "a")}, {1: [2, "a"]}),
    ],
)
def test_secret_values_are_replaced(value: Any, expected: Any) -> None:
    assert redact(value) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("+api_key=S", "+api_key=***"),
        ("++hydra.job.env_set.WANDB_API_KEY=S", "++hydra.job.env_set.WANDB_API_KEY=***"),
        ("tracker.mlflow.tracking_uri=http://u:S@h", "tracker.mlflow.tracking_uri=http://***@h"),
        ("+db={user:me,password:S}", "+db=***"),
        ("+db=[{a:{b: 1, 'api_key' : 'S'}}]", "+db=***"),
        ("+db={user:me,port:1}", "+db={user:me,port:1}"),
        ("api_key=${oc.env:KEY}", "api_key=${oc.env:KEY}"),
        ("password=null", "password=null"),
        ("lr=0.1", "lr=0.1"),
        ("-m", "-m"),
        ("~callbacks.progress", "~callbacks.progress"),
    ],
)
def test_secret_overrides_are_replaced(override: str, expected: str) -> None:
    assert Redactor().override(override) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://h/a?token=S&x=1", "GET https://h/a?token=***&x=1"),
        ("https://h/a?x=1&api_key=S#top", "https://h/a?x=1&api_key=***#top"),
        ("see postgresql://me:a/b@h:5432/db.", "see postgresql://***@h:5432/db."),
        ("see http://me:p@ss@h/db", "see http://***@h/db"),
        ("see https://ghp_S@github.com/a", "see https://***@github.com/a"),
        ("smb me:S3@files.example.org", "smb ***@files.example.org"),
        ("connect(password='a b', port=1)", "connect(password='***', port=1)"),
        ('{"api_key": "S", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("{'Authorization': 'Bearer S'}", "{'Authorization': '***'}"),
        ("Authorization: Bearer abcdef12", "Authorization: Bearer ***"),
        ("Authorization=Basic abcdef12", "Authorization=*** ***"),
        ("--wandb-api-key=S now", "--wandb-api-key=*** now"),
    ],
)
def test_a_part_of_a_text_that_looks_like_a_secret_is_replaced(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "epoch 3  train/loss 0.25  12:30:01",
        "http://127.0.0.1:5000/models/a@best",
        "repo/image:1.2@sha256:0a1b",
        "mail me@example.org",
        "num_memory_tokens=4 tokens=4096 use_auth_token=False token=None",
        "TypeError: unexpected token: }",
        "a=b: c@d",
        "",
    ],
)
def test_other_texts_are_not_changed(text: str) -> None:
    assert redact(text) == text


HOLDERS = [
    {"config": {"tracker": {"wandb": {"api_key": S}}}},
    {"config": {"tokens": ["other-value", S]}},
    {"config": {"credentials": {"anything": S}}},
    {"config": {"uri": f"https://me:{S}@host"}},
    {"environ": {"WANDB_API_KEY": S, "HOME": "/home/me"}},
    {"environ": {"HTTPS_PROXY": f"http://me:{S}@proxy:3128"}},
    {"patterns": ["internal"], "config": {"internal_id": S}},
]


@pytest.mark.parametrize("given", HOLDERS, ids=str)
def test_a_secret_value_is_replaced_wherever_it_appears(given: dict[str, Any]) -> None:
    redactor = Redactor(**given)
    assert redactor.text(f"no such model: x{S}y in /home/me") == "no such model: x***y in /home/me"
    assert redactor.value({"note": ["a", {"b": f"<{S}>"}]}) == {"note": ["a", {"b": "<***>"}]}
    assert redactor.override(f"note={S}") == "note=***"


@pytest.mark.parametrize("secret", ["pa ss/wörd%+&", "quo\"te\\d'", "tab\there-and"])
def test_a_quoted_or_escaped_secret_is_replaced(secret: str) -> None:
    from urllib.parse import quote

    text = Redactor(config={"password": secret}).text
    for form in (secret, quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]):
        assert text(f"<{form}>") == "<***>"


@pytest.mark.parametrize("secret", ["wörd-x1y2", 'quo"te-x1y2', "back\\slash-x1", "it's-x1y2"])
def test_a_secret_that_is_escaped_twice_is_replaced(secret: str) -> None:
    text = Redactor(config={"password": secret}).text
    for once in (json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)):
        for form in (json.dumps({"note": [once]}), repr({"note": [once]})):
            assert "x1" not in text(form)


def test_the_password_of_a_url_is_replaced_in_encoded_and_decoded_form() -> None:
    text = Redactor(config={"uri": "http://me:p%40ss-word@h"}).text
    assert text("p%40ss-word p@ss-word") == "*** ***"


def test_each_line_of_a_multiline_secret_is_replaced() -> None:
    text = Redactor(config={"private_key": "line-one-abc\nline-two-def\n"}).text
    assert text("1 line-two-def") == "1 ***"
    assert text("line-one-abc\nline-two-def\n") == "***\n***\n"


def test_a_secret_that_contains_another_secret_is_replaced_completely() -> None:
    redactor = Redactor(config={"api_key": "abcdefgh", "token": "abcdefgh-ijk"})
    assert redactor.text("abcdefgh-ijk abcdefgh") == "*** ***"


@pytest.mark.parametrize(
    "secret", ["", "abc", "none", "True", "root", "localhost", "12345", "${oc.env:KEY}"]
)
def test_short_and_common_values_are_not_replaced_in_texts(secret: str) -> None:
    text = f"none abc True ~root/x localhost 12345 ${{oc.env:KEY}} <{secret}>"
    assert Redactor(config={"password": secret, "token": True, "api_key": None}).text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("on xkcd now", "on *** now"), ("'xkcd'", "'***'"), ("xkcds and axkcd", "xkcds and axkcd")],
)
def test_a_short_secret_is_replaced_only_as_a_whole_word(text: str, expected: str) -> None:
    assert Redactor(config={"password": "xkcd"}).text(text) == expected


def test_a_number_can_be_a_secret_value() -> None:
    assert (
        Redactor(config={"password": 987654}).text("pin 987654, step 1987654")
        == "pin ***, step 1987654"
    )


def test_patterns_make_keys_secret_and_are_replaced_in_texts() -> None:
    redactor = Redactor([r"^patient", r"(?i)emp-\d+", r"(a)\1b"])
    assert redactor.is_secret("patient_id")
    assert redactor.value({"patient_id": 7, "impatient": 8}) == {
        "patient_id": "***",
        "impatient": 8,
    }
    assert redactor.text("seen EMP-12 and emp-3; aab") == "seen *** and ***; ***"


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["ok", "("],
            r"^redact\[1\]=\( is not a valid regular expression \(missing \), .*: escape special "
            r"characters with \\\.$",
        ),
        (
            [".*"],
            r"^redact\[0\]=\.\* matches the empty string, so it would hide everything: .*\.$",
        ),
        ("abc", r"^redact=abc must be a list of regular expressions: redact=\[abc\]\.$"),
    ],
)
def test_a_bad_pattern_is_reported_in_one_sentence(patterns: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Redactor(patterns)


def test_redacting_a_redacted_text_does_not_change_it() -> None:
    redactor = Redactor(["emp"], {"api_key": S})
    once = redactor.text(
        f"https://a:b@h/?token=x&y={S} emp 'password': 'x' Authorization: Bearer abcdefgh"
    )
    assert once == "https://***@h/?token=***&y=*** *** 'password': '***' Authorization: Bearer ***"
    assert redactor.text(once) == once


@pytest.mark.parametrize(
    "piece", ["a", "x=", "://a:b", "a:", "'a': ", "bearer ", "token=", "a@", "aA_", "{a"]
)
def test_the_time_for_a_long_text_is_linear_in_its_length(piece: str) -> None:
    redactor = Redactor(config={"api_key": S, "password": "xkcd"})
    text = piece * (200_000 // len(piece))
    start = time.perf_counter()
    redactor.text(text)
    assert time.perf_counter() - start < 3.0


@pytest.mark.parametrize("kind", ["proj", "svcacct", "admin", "ant-api03"])
def test_a_key_of_openai_or_anthropic_is_hidden_to_its_end(kind: str) -> None:
    key = f"sk-{kind}-AbCdEfGhIjKlMnOpQrStUvWx-RESTrest_0123456789-TAIL"
    assert Redactor().text(f"failed with {key}, again") == "failed with ***, again"
