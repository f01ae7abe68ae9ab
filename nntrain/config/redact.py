"""Replaces secrets with `***` before anything is printed or recorded."""

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
# text tokens, not secrets: `use_cls_token`, `num_memory_tokens`, `max_new_tokens`
_TEXT_TOKEN = re.compile(
    r"""(?: ^(?: n | num | max | min )_ (?: .*_ )?
        | (?:^|_) (?: begin | bos | class | cls | context | decoder | encoder | end | eos | image
            | input | label | latent | mask | memory | new | output | pad | patch | prefix | prompt
            | query | register | sep | soft | special | start | stop | text | unk | video
            | visual )_
        ) tokens?$""",
    re.VERBOSE,
)
# common default values of secret keys; replacing these words everywhere would garble messages
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
    """Replaces secrets with `***` in values and strings.

    The following are secrets:

    - the value of a secret key, such as `api_key` or `db.password` (but not `use_cls_token`);
    - the login in a URL or before a host name (`user:password@host`);
    - the value in `token=...` and in an `Authorization` header;
    - all secret values that appear in `config` or `environ`, wherever they occur in a string.
      Common words and values with fewer than 4 characters (numbers: 6) are not replaced. Values
      with fewer than 8 characters are replaced only if they are whole words.

    Args:
        patterns: additional regular expressions, from the configuration key `redact`. A key that
            matches is secret, and all matches in strings are replaced.
        config: the resolved configuration. Its secret values are replaced everywhere.
        environ: the environment variables. Their secret values are replaced everywhere.

    Raises:
        ConfigError: if a pattern is not a valid regular expression, or matches the empty string.
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
        """Returns whether a key has a secret value, for example `api_key` or `db.password`."""
        return _names_a_secret(key) or any(pattern.search(key) for pattern in self._patterns)

    def value(self, value: Any, key: str = "") -> Any:
        """Returns a copy of a value with all secrets replaced."""
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
        """Returns a Hydra override (`key=value`) with all secrets in the value replaced."""
        key, sign, value = override.partition("=")
        if any(self.is_secret(name) for name in _NESTED_KEY.findall(value)):
            return f"{key}{sign}{REDACTED}"
        return f"{key}{sign}{self.value(value, key.lstrip('+~'))}"

    def text(self, text: str) -> str:
        """Returns a string with all secrets replaced."""
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
            f"{where} is not a valid regular expression ({err}): escape special characters with \\."
        ) from err
    if pattern.search(""):
        raise ConfigError(
            f"{where} matches the empty string, so it would hide everything: make it more specific."
        )
    return pattern


def _names_a_secret(key: str) -> bool:
    words = _BOUNDARY.sub("_", key).lower()
    found = _SECRET_KEY.search(words)
    if found is None or "token" not in found.group():
        return found is not None
    return _TEXT_TOKEN.search(words.rpartition(".")[2]) is None


def _is_count(key: str, value: Any) -> bool:
    """Returns whether a value is a token count, such as `tokens: 4096`."""
    return key.lower().endswith("tokens") and _NUMBER.fullmatch(str(value)) is not None


def _hidden(value: Any) -> Any:
    """Returns `***`, unless the value is empty, a boolean or an interpolation."""
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
    """Yields each line of a secret in plain, URL-decoded, URL-encoded, `repr` and JSON form."""
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
    """Returns a pattern for a literal string. A short string matches only as a whole word.

    The pattern starts with the literal string because `re` can search for it faster.
    """
    plain = re.escape(text)
    return plain if len(text) >= 8 else rf"{plain}(?!\w)(?<!\w{plain})"


_BY_NAME = Redactor()


def is_secret(key: str) -> bool:
    """Returns whether a key has a secret value, with the default rules of `Redactor`."""
    return _BY_NAME.is_secret(key)


def redact(value: Any, key: str = "") -> Any:
    """Returns a copy of a value with all secrets replaced, with the default rules of `Redactor`."""
    return _BY_NAME.value(value, key)
