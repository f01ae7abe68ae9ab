"""Replaces secrets with `***` before anything is printed or recorded."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from nntrain.config.errors import ConfigError
from nntrain.config.secret_names import names_a_secret

REDACTED = "***"

# common default values of secret keys, and words of messages and paths, which would be garbled
_EVERYDAY = re.compile(
    r"""accuracy | admin | auto | basic | batch | bearer | best | cache | changeme | checkpoint
    | cookie | cuda | data | debug | default | demo | digest | disabled | email | enabled | epoch
    | error | example | false | file | files | first | folder | guest | home | host | hydra | info
    | input | last | latest | local | localhost | login | loss | main | metrics | missing | mlflow
    | model | multi | name | nntrain | node | oauth | optional | optuna | output | outputs | pass
    | password | path | postgres | production | python | random | remote | required | root | runs
    | secret | seed | server | session | signature | single | sqlite | staging | step | study
    | sweep | test | text | time | token | torch | train | training | trial | true | unknown | user
    | username | valid | value | wandb | warning | webhook | work""",
    re.VERBOSE | re.IGNORECASE,
)
# the last forms describe a search space: the labels of secrets, or a range of numbers
_HARMLESS = re.compile(
    r"|null|none|true|false|\*{3}\d*|\?\?\?|\$\{(oc\.env:)?[\w.]+\}"
    r"|choice\(\*{3}\d+(, \*{3}\d+)*\)"
    r"|(int|float) from [\d.e+-]+ to [\d.e+-]+( in steps of [\d.e+-]+)?(, log)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?[\d_.,]+(e[+-]?\d+)?", re.IGNORECASE)

# a password may contain `@` and `/`, so the login ends at the last `@`
_URL_LOGIN = re.compile(
    r"(?<=://)(?:[^/\s@:]{0,128}:(?!\d+(?:[/?#]|$))(?:(?!://)\S){1,256}|[^/\s?#]{1,512})@"
)
_URL_PASSWORD = re.compile(r"://[^/\s@:]*:(?!\d+(?:[/?#]|$))(\S+)@")
_LOGIN = re.compile(r"(?<![\w.+%/-])[\w.+%-]{1,128}:[^\s@/'\"]{1,256}@(?!sha\d)(?=[\w\[])")
_HEADER = re.compile(
    r"\b(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer|token)\s+)?"
    r"|bearer:?\s+(?=\S*\d)|(?:set-)?cookie:\s*)[\w.~+/=%;: -]*[\w.~+/=%-]{8,}",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"""(?<![\w.])(?P<key>[A-Za-z_][\w.-]{0,127})(?:=(?!\s)|['"]\s{0,9}:\s*|(?P<is_prose>\s?[:=]\s))"""
)
_VALUE = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|[^\s&'"\#()<>]+""")
# after `key: ` or `key = `, which may be a sentence, only what looks generated: `password: a1b2c3`
_VALUE_IN_PROSE = re.compile(
    r"""['"]?(?=\S{0,99}?[A-Za-z])(?=\S{0,99}?\d)[^\s&'"\#()<>,;{}\[\]]{6,}['"]?"""
)
_NESTED_KEY = re.compile(r"[{,]\s*['\"]?([\w.-]+)['\"]?\s*:")
_NESTED_VALUE = re.compile(r"""[{,]\s*['"]?([\w.-]+)['"]?\s*:\s*['"]?([^'",{}\[\]\s]+)""")
_FOLDER = re.compile(r"[/~.]|[A-Za-z]:[\\/]")

# secrets that are recognized by their form
_WEBHOOK = re.compile(
    r"""(https?://(?: hooks\.slack\.com | (?:\w+\.)?discord(?:app)?\.com/api/webhooks
        | [\w.-]{1,200}\.webhook\.office\.com | outlook\.office(?:365)?\.com/webhook
        | hooks\.(?:slack-gov|zapier)\.com | [\w.-]{1,200}\.logic\.azure\.com
        | chat\.googleapis\.com/v1/spaces | api\.telegram\.org )/)[^\s'"<>]+""",
    re.VERBOSE | re.IGNORECASE,
)
_SIGNED = re.compile(r"([?&;](?:sig|X-Amz-Credential)=)[^&\s'\"<>]+", re.IGNORECASE)
_TOKEN = re.compile(
    r"""(?<![A-Za-z0-9])(?: eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+ | gh[oprsu]_[A-Za-z0-9]{16,}
        | github_pat_\w{20,} | glpat-[\w-]{16,} | xox[abeoprs]-[\w-]{10,} | hf_[A-Za-z0-9]{20,}
        | sk-(?:admin|ant|proj|svcacct)-[\w-]{20,} | sk-[A-Za-z0-9_]{20,}
        | A(?:KIA|SIA)[0-9A-Z]{16} | AIza[\w-]{35} )""",
    re.VERBOSE,
)
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).{0,16384}?(?=-----END|\Z)", re.DOTALL
)


class Redactor:
    """Replaces secrets with `***` in values and strings.

    The following are secrets:

    - the value of a secret key, such as `api_key` or `db.password` (but not `use_cls_token`);
    - the login in a URL or before a host name (`user:password@host`);
    - the value in `token=...` and in an `Authorization` header;
    - texts with the form of a secret, such as a webhook, a JSON web token or a private key;
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
        self._secrets = frozenset(
            {*self._secrets_in(config or {}), *self._secrets_in(environ or {})}
        )
        self._values = self._pattern_of_values()

    def _pattern_of_values(self) -> re.Pattern[str] | None:
        return _alternation(
            form for secret in self._secrets for form in _forms(secret) if _is_telling(form)
        )

    def joined(self, other: Redactor) -> Redactor:
        """Returns a redactor with the secrets and the patterns of both redactors."""
        if other._secrets <= self._secrets and set(other._patterns) <= set(self._patterns):
            return self
        both = Redactor()
        both._patterns = list(dict.fromkeys([*self._patterns, *other._patterns]))
        both._secrets = self._secrets | other._secrets
        both._values = both._pattern_of_values()
        return both

    def is_secret(self, key: str) -> bool:
        """Returns whether a key has a secret value, for example `api_key` or `db.password`."""
        return names_a_secret(key) or any(pattern.search(key) for pattern in self._patterns)

    def value(self, value: Any, key: str = "") -> Any:
        """Returns a copy of a value with all secrets replaced."""
        if isinstance(value, Mapping):
            if self.is_secret(key):
                return {name: _hidden(item) for name, item in value.items()}
            return {name: self.value(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, key) for item in value]
        if self.is_secret(key) and not _is_harmless_in(key, value):
            return _hidden(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        text = self.text(str(value))
        return text if isinstance(value, str) or text != str(value) else value

    def override(self, override: str) -> str:
        """Returns a Hydra override (`key=value`) with all secrets in the value replaced."""
        key, sign, value = override.partition("=")
        if any(self.is_secret(name) for name in _NESTED_KEY.findall(value)):
            return f"{key}{sign}{REDACTED}"
        return f"{self.text(key)}{sign}{self.value(value, key.lstrip('+~'))}"

    def text(self, text: str) -> str:
        """Returns a string with all secrets replaced."""
        text = _TOKEN.sub(REDACTED, text)
        if "://" in text:
            text = _WEBHOOK.sub(rf"\g<1>{REDACTED}", text)
        if "@" in text:
            text = _LOGIN.sub(f"{REDACTED}@", _URL_LOGIN.sub(f"{REDACTED}@", text))
        if "=" in text or ":" in text or "earer" in text:
            text = self._assignments(_HEADER.sub(rf"\g<1>{REDACTED}", text))
            text = _SIGNED.sub(rf"\g<1>{REDACTED}", text)
        if "-----BEGIN" in text:
            text = _PRIVATE_KEY.sub(rf"\g<1>{REDACTED}", text)
        if self._values is not None:
            text = self._values.sub(REDACTED, text)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def _assignments(self, text: str) -> str:
        """Replaces the value in `key=value` and `'key': value` if the key is secret."""
        parts, kept, at = [], 0, 0
        while (found := _KEY.search(text, at)) is not None:
            at = found.end()
            value = self._value_at(text, found)
            if value is not None:
                at = value.end()
                parts += [text[kept : value.start()], _assigned(found["key"], value.group())]
                kept = at
        return "".join([*parts, text[kept:]])

    def _value_at(self, text: str, found: re.Match[str]) -> re.Match[str] | None:
        # `PWD` is a folder in the environment, and a password in the settings of a database
        if not self.is_secret(found["key"]) and found["key"] != "PWD":
            return None
        return (_VALUE_IN_PROSE if found["is_prose"] else _VALUE).match(text, found.end())

    def _secrets_in(self, value: Any, key: str = "", secret: bool = False) -> Iterator[str]:
        secret = secret or (self.is_secret(key) and not _is_harmless_in(key, value))
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from self._secrets_in(item, str(name), secret)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._secrets_in(item, key, secret)
        elif secret and isinstance(value, str | int) and not isinstance(value, bool):
            yield str(value)
        elif isinstance(value, str):
            for password in _URL_PASSWORD.findall(value):
                # a driver that reads the URL in another way reports parts of the password
                yield from (password, *re.split(r"[@/:?#]", password))


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


def _assigned(key: str, value: str) -> str:
    bare = value.strip(" '\"")
    if _is_harmless_in(key, bare) or _HARMLESS.fullmatch(bare):
        return value
    quotes = value[0] if value[0] in "'\"" else ""
    return f"{quotes}{REDACTED}{quotes}"


def _is_harmless_in(key: str, value: Any) -> bool:
    """Returns whether a value is a token count (`tokens: 4096`) or a folder (`pwd: /home/me`)."""
    if key.lower().endswith("tokens"):
        return _NUMBER.fullmatch(str(value)) is not None
    return key.lower().endswith("pwd") and _FOLDER.match(str(value)) is not None


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
    """Yields each line of a secret in plain form and in the forms that encoders give it."""
    for line in secret.splitlines():
        plain = line.strip()
        yield from (
            plain,
            unquote(plain),
            quote(plain, safe=""),
            quote_plus(plain),
            *_escaped(plain),
            *(form for once in _escaped(plain) for form in _escaped(once)),
            html.escape(plain),
            _for_script(json.dumps(plain)[1:-1]),
            plain.replace("'", "''"),
            plain.replace("'", "\\'"),
            plain.replace("'", "'\"'\"'"),
        )
        if len(plain) >= 8:
            yield from _base64(plain.encode())


def _escaped(text: str) -> tuple[str, str, str]:
    """Returns a text as `repr` and JSON write it."""
    return repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]


def _for_script(text: str) -> str:
    """Escapes a JSON text as plotly does it for HTML."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("/", "\\u002f")


def _base64(secret: bytes) -> Iterator[str]:
    """Yields the characters that encode a secret anywhere in a text in base64."""
    for offset in range(3):
        code = base64.b64encode(b"\0" * offset + secret)
        first, rest = -(-offset * 8 // 6), (offset + len(secret)) % 3
        last = (offset + len(secret)) * 8 // 6 if rest else len(code)
        yield code[first:last].decode()


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


# --- what this process knows


class _Known:
    """The redactor with everything that this process has learned; `None` before its first use."""

    redactor: Redactor | None = None


def known() -> Redactor:
    """Returns the redactor with all secrets that this process knows.

    It knows the secrets of the environment, and those that `learn` was called with.
    """
    if _Known.redactor is None:
        _Known.redactor = Redactor(environ=os.environ)
    return _Known.redactor


def learn(redactor: Redactor) -> Redactor:
    """Adds the secrets of a redactor to those that this process knows; returns the redactor."""
    _Known.redactor = known().joined(redactor)
    return redactor


def learn_arguments(argv: Sequence[str]) -> None:
    """Adds the secrets in a command line, as they were typed, to those that this process knows.

    An override may be wrong, or quoted, so that its value is known only in parts.
    """
    typed = [one.lstrip("+~-").partition("=") for one in argv]
    config = {key: _parts(value) for key, sign, value in typed if sign}
    nested = {key: value for _, _, text in typed for key, value in _NESTED_VALUE.findall(text)}
    flags = {
        one.lstrip("-"): value for one, value in pairwise(argv) if re.fullmatch(r"--?[\w-]+", one)
    }
    learn(Redactor(config={"typed": [config, nested, flags]}))


def _parts(value: str) -> list[str]:
    """Returns a typed value as a whole and, if it is a list, its items, without quotes."""
    items = re.split(r"[\[\],]", value) if value.startswith("[") else []
    return [value, *(one.strip(" '\"") for one in (value, *items))]


def forget() -> None:
    """Forgets what `learn` was called with."""
    _Known.redactor = None


def is_secret(key: str) -> bool:
    """Returns whether a key has a secret value."""
    return known().is_secret(key)


def redact(value: Any, key: str = "") -> Any:
    """Returns a copy of a value with all secrets replaced that this process knows."""
    return known().value(value, key)


def redact_override(override: str) -> str:
    """Returns a Hydra override (`key=value`), which may be wrong, without secrets in its value."""
    return known().override(override)


def redact_text(text: str) -> str:
    """Returns a text with all secrets replaced that this process knows."""
    return known().text(text)
