"""Keeping secrets out of what is recorded: by the names of keys, by what texts look like, and by the values themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from nntrain.config.errors import ConfigError

REDACTED = "***"

_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9.]+")
_SECRET_KEY = re.compile(
    r"""passw | passphrase | [a-z0-9]_pwd$
    | (?<![a-z0-9]) (?: secrets? | credentials? | authorization | connection_?string
        | (?: api | access | account | auth | deploy | encryption | licen[cs]e | master | private | secret | service | signing
            | ssh )_?keys?
        ) (?![a-z])
    | (?<![a-z0-9]) (?: access | api | auth | bearer | hf | refresh | session )? tokens? _?[0-9]*$""",
    re.VERBOSE,
)
# `token` as a piece of text: `use_cls_token`, `num_memory_tokens`, `max_new_tokens`.
_TEXT_TOKEN = re.compile(
    r"""(?: ^(?: n | num | max | min )_ (?: .*_ )?
        | (?:^|_) (?: begin | bos | class | cls | context | decoder | encoder | end | eos | image | input | label | latent
            | mask | memory | new | output | pad | patch | prefix | prompt | query | register | sep | soft | special | start
            | stop | text | unk | video | visual )_
        ) tokens?$""",
    re.VERBOSE,
)
# What stands under secret keys often enough without being one; blotting it out everywhere would only spoil texts.
_EVERYDAY = re.compile(
    r"""admin | auto | changeme | default | demo | disabled | enabled | example | guest | localhost | mlflow | password
    | postgres | root | secret | test | token | user | wandb""",
    re.VERBOSE | re.IGNORECASE,
)
_HARMLESS = re.compile(r"|null|none|true|false|\?\?\?|\$\{(oc\.env:)?[\w.]+\}", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[\d_.,]+(e[+-]?\d+)?", re.IGNORECASE)

_URL_LOGIN = re.compile(r"(?<=://)(?:[^/\s?#]{1,512}|[^/\s@:]{1,128}:(?!\d+[/?#])[^\s@]{1,256})@")
_URL_PASSWORD = re.compile(r"://[^/\s@:]*:(?!\d+[/?#])([^\s@]+)@")
_LOGIN = re.compile(r"(?<![\w.+%/-])[\w.+%-]{1,128}:[^\s@/'\"]{1,256}@(?!sha\d)(?=[\w\[])")
_HEADER = re.compile(
    r"\b(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer|token)\s+)?|bearer\s+)[\w.~+/=-]{8,}",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(
    r"""(?<![\w.])(?P<key>[A-Za-z_][\w.-]{0,127})(?P<sign>=|['"]\s*:\s*)(?P<value>'[^'\n]*'|"[^"\n]*"|[^\s&'"\#()<>]+)"""
)
_NESTED_KEY = re.compile(r"[{,]\s*['\"]?([\w.-]+)['\"]?\s*:")


class Redactor:
    """Replaces secrets by `***`, in values and in texts.

    Secret is what stands under a key whose name says so (`api_key`, `db.password`; not `use_cls_token`), a login inside an
    URL or before a host (`user:password@host`), the value in `token=...` and in an `Authorization` header, and each value
    that `config` holds under a secret key or inside an URL, or `environ` under a secret name, wherever else it turns up.
    Such a value is looked for if it has 4 characters or more and is no everyday word or short number; one of fewer than 8
    only where it stands alone.

    Args:
        patterns: further regular expressions, the configuration's `redact`: a key in which one is found is secret, and
            where one is found in a text, what it matches is replaced.
        config: the resolved configuration, in which secret values are looked up.
        environ: the environment variables, likewise.

    Raises:
        ConfigError: if a pattern is no regular expression, or matches the empty text and thereby everything.
    """

    def __init__(
        self,
        patterns: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._patterns = _compiled(patterns)
        secrets = {*self._secrets_in(config or {}), *self._secrets_in(environ or {})}
        self._values = _alternation(
            form for secret in secrets for form in _forms(secret) if _is_telling(form)
        )

    def is_secret(self, key: str) -> bool:
        """Whether a key's name says that its value is secret: `api_key`, `db.password`; not `use_cls_token`."""
        return _names_a_secret(key) or any(pattern.search(key) for pattern in self._patterns)

    def value(self, value: Any, key: str = "") -> Any:
        """The same value with what is secret in it replaced: all that stands under a secret key, and what texts hold."""
        if isinstance(value, Mapping):
            if self.is_secret(key):
                return {name: _blotted(item) for name, item in value.items()}
            return {name: self.value(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, key) for item in value]
        if self.is_secret(key) and not _is_count(key, value):
            return _blotted(value)
        return self.text(value) if isinstance(value, str) else value

    def override(self, override: str) -> str:
        """A command-line override, `key=value`, with its value replaced as far as it is secret, or as a key in it is."""
        key, sign, value = override.partition("=")
        if any(self.is_secret(name) for name in _NESTED_KEY.findall(value)):
            return f"{key}{sign}{REDACTED}"
        return f"{key}{sign}{self.value(value, key.lstrip('+~'))}"

    def text(self, text: str) -> str:
        """The same text with what is secret in it replaced."""
        if "@" in text:
            text = _LOGIN.sub(f"{REDACTED}@", _URL_LOGIN.sub(f"{REDACTED}@", text))
        if "=" in text or ":" in text:
            text = _ASSIGNMENT.sub(self._assignment, _HEADER.sub(rf"\g<1>{REDACTED}", text))
        if self._values is not None:
            text = self._values.sub(REDACTED, text)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def _assignment(self, match: re.Match[str]) -> str:
        key, sign, value = match.group("key", "sign", "value")
        name = key.strip(" '\"")
        bare = value.strip(" '\"")
        if not self.is_secret(name) or _is_count(name, bare) or _HARMLESS.fullmatch(bare):
            return match.group()
        quotes = value[0] if value[0] in "'\"" else ""
        return f"{key}{sign}{quotes}{REDACTED}{quotes}"

    def _secrets_in(self, value: Any, key: str = "", secret: bool = False) -> Iterator[str]:
        secret = secret or (self.is_secret(key) and not _is_count(key, value))
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from self._secrets_in(item, str(name), secret)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._secrets_in(item, key, secret)
        elif secret and isinstance(value, str | int) and not isinstance(value, bool):
            yield str(value)
        elif isinstance(value, str):
            yield from _URL_PASSWORD.findall(value)


def _compiled(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    if isinstance(patterns, str):
        raise ConfigError(
            f"redact={patterns} is one text: give a list of regular expressions, redact=[{patterns}]."
        )
    return [_pattern(text, f"redact[{i}]={text}") for i, text in enumerate(patterns)]


def _pattern(text: str, where: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(str(text))
    except re.error as err:
        remedy = "give one of Python's, with \\ before a character that stands for itself"
        raise ConfigError(f"{where} is no regular expression ({err}): {remedy}.") from err
    if pattern.search(""):
        raise ConfigError(
            f"{where} matches the empty text and so would hide everything: give one that must match something."
        )
    return pattern


def _names_a_secret(key: str) -> bool:
    words = _BOUNDARY.sub("_", key).lower()
    found = _SECRET_KEY.search(words)
    if found is None or "token" not in found.group():
        return found is not None
    return _TEXT_TOKEN.search(words.rpartition(".")[2]) is None


def _is_count(key: str, value: Any) -> bool:
    """Whether a number of tokens is meant: `tokens: 4096`."""
    return key.lower().endswith("tokens") and _NUMBER.fullmatch(str(value)) is not None


def _blotted(value: Any) -> Any:
    """`***`, but for what tells nothing: nothing at all, true and false, and a reference to where the secret is."""
    if isinstance(value, Mapping):
        return {name: _blotted(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_blotted(item) for item in value]
    harmless = (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, str) and _HARMLESS.fullmatch(value))
    )
    return value if harmless else REDACTED


def _forms(secret: str) -> Iterator[str]:
    """A secret's lines, since texts come by the line, as they are and as URLs, `repr` and JSON write them."""
    for line in secret.splitlines():
        plain = line.strip()
        yield from (
            plain,
            unquote(plain),
            quote(plain, safe=""),
            repr(plain)[1:-1],
            json.dumps(plain)[1:-1],
        )


def _is_telling(text: str) -> bool:
    shortest = 6 if text.isdigit() else 4
    return len(text) >= shortest and not _EVERYDAY.fullmatch(text) and not _HARMLESS.fullmatch(text)


def _alternation(texts: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(set(texts), key=lambda text: (-len(text), text))
    return re.compile("|".join(_literal(text) for text in longest_first)) if longest_first else None


def _literal(text: str) -> str:
    """The text anywhere if it is long, else where it is no part of a word; a literal comes first so that `re` can skip."""
    plain = re.escape(text)
    return plain if len(text) >= 8 else rf"{plain}(?!\w)(?<!\w{plain})"


_BY_NAME = Redactor()


def is_secret(key: str) -> bool:
    """`Redactor.is_secret` with nothing added."""
    return _BY_NAME.is_secret(key)


def redact(value: Any, key: str = "") -> Any:
    """`Redactor.value` with nothing added."""
    return _BY_NAME.value(value, key)
