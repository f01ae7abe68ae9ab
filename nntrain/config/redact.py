"""Removal of secrets from records: by key, by the pattern of a text, and by known values."""

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
        | (?: api | access | account | auth | deploy | encryption | licen[cs]e | master | private
            | secret | service | signing | ssh )_?keys?
        ) (?![a-z])
    | (?<![a-z0-9]) (?: access | api | auth | bearer | hf | refresh | session )?
        tokens? _?[0-9]*$""",
    re.VERBOSE,
)
# tokens of text: `use_cls_token`, `num_memory_tokens`, `max_new_tokens`
_TEXT_TOKEN = re.compile(
    r"""(?: ^(?: n | num | max | min )_ (?: .*_ )?
        | (?:^|_) (?: begin | bos | class | cls | context | decoder | encoder | end | eos | image
            | input | label | latent | mask | memory | new | output | pad | patch | prefix | prompt
            | query | register | sep | soft | special | start | stop | text | unk | video
            | visual )_
        ) tokens?$""",
    re.VERBOSE,
)
# common values of secret keys that are not secret; hiding them everywhere would spoil texts
_EVERYDAY = re.compile(
    r"""admin | auto | changeme | default | demo | disabled | enabled | example | guest | localhost
    | mlflow | password | postgres | root | secret | test | token | user | wandb""",
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

    These are secrets:

    - the value of a key whose name says so (`api_key`, `db.password`; not `use_cls_token`),
    - a login in a URL or before a host (`user:password@host`),
    - the value in `token=...` and in an `Authorization` header,
    - any value that `config` has under a secret key or in a URL, or `environ` under a secret name,
      wherever it occurs. It needs at least 4 characters, and must not be an everyday word or a
      short number. With fewer than 8 characters it must stand alone.

    Args:
        patterns: further regular expressions, from the key `redact` of the configuration. They make
            the keys secret in which they are found, and hide their matches in texts.
        config: the resolved configuration, the source of secret values.
        environ: the environment variables, likewise.

    Raises:
        ConfigError: if a pattern is not a regular expression, or matches the empty text.
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
        """Returns whether the value of a key is secret: `api_key`, `db.password`."""
        return _names_a_secret(key) or any(pattern.search(key) for pattern in self._patterns)

    def value(self, value: Any, key: str = "") -> Any:
        """Returns a value with its secrets replaced: those under secret keys and those in texts."""
        if isinstance(value, Mapping):
            if self.is_secret(key):
                return {name: _hidden(item) for name, item in value.items()}
            return {name: self.value(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, key) for item in value]
        if self.is_secret(key) and not _is_count(key, value):
            return _hidden(value)
        return self.text(value) if isinstance(value, str) else value

    def override(self, override: str) -> str:
        """Returns an override `key=value` with the secrets in its value replaced."""
        key, sign, value = override.partition("=")
        if any(self.is_secret(name) for name in _NESTED_KEY.findall(value)):
            return f"{key}{sign}{REDACTED}"
        return f"{key}{sign}{self.value(value, key.lstrip('+~'))}"

    def text(self, text: str) -> str:
        """Returns a text with its secrets replaced."""
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
            f"redact={patterns} must be a list of regular expressions: redact=[{patterns}]."
        )
    return [_pattern(text, f"redact[{i}]={text}") for i, text in enumerate(patterns)]


def _pattern(text: str, where: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(str(text))
    except re.error as err:
        raise ConfigError(
            f"{where} is not a regular expression ({err}): put \\ before special characters."
        ) from err
    if pattern.search(""):
        raise ConfigError(
            f"{where} matches the empty text, so it would hide everything: make it more specific."
        )
    return pattern


def _names_a_secret(key: str) -> bool:
    words = _BOUNDARY.sub("_", key).lower()
    found = _SECRET_KEY.search(words)
    if found is None or "token" not in found.group():
        return found is not None
    return _TEXT_TOKEN.search(words.rpartition(".")[2]) is None


def _is_count(key: str, value: Any) -> bool:
    """Returns whether a value is a number of tokens: `tokens: 4096`."""
    return key.lower().endswith("tokens") and _NUMBER.fullmatch(str(value)) is not None


def _hidden(value: Any) -> Any:
    """Returns `***`, or the value itself if it is empty, a boolean or a reference."""
    if isinstance(value, Mapping):
        return {name: _hidden(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    harmless = (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, str) and _HARMLESS.fullmatch(value))
    )
    return value if harmless else REDACTED


def _forms(secret: str) -> Iterator[str]:
    """Yields each line of a secret, as it is and as written in URLs, `repr` and JSON."""
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
    """Returns a pattern for a text, anywhere if it is long, else not within a word.

    It starts with the literal text, which lets `re` search fast.
    """
    plain = re.escape(text)
    return plain if len(text) >= 8 else rf"{plain}(?!\w)(?<!\w{plain})"


_BY_NAME = Redactor()


def is_secret(key: str) -> bool:
    """Returns `Redactor.is_secret` of a redactor without further patterns."""
    return _BY_NAME.is_secret(key)


def redact(value: Any, key: str = "") -> Any:
    """Returns `Redactor.value` of a redactor without further patterns."""
    return _BY_NAME.value(value, key)
