"""Decides by its name whether a key has a secret value."""

from __future__ import annotations

import re
from functools import lru_cache

_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9.]+")

# anywhere in a key: `db_password_file`, `api_key_prod`
_ANYWHERE = re.compile(
    r"""passw | pass_?phrase | pass_?code | [a-z0-9]_pwd$
    | (?<![a-z0-9]) (?: secrets? | credentials? | authorization | conn(?:ection)?_?str(?:ing)?
        | (?: api | access | account | auth | deploy | encryption | hmac | licen[cs]e | master
            | priv | private | secret | service | session | shared | signing | ssh )_?keys?
        ) (?![a-z])
    | (?<![a-z0-9]) (?: access | api | auth | bearer | hf | refresh | session )?
        tokens? _?[0-9]*$""",
    re.VERBOSE,
)
# the last word of a key: `smtp_pass`, `github_pat`, but not `pass_through` or `sasrec`
_LAST = re.compile(
    r"""(?<![a-z0-9]) (?: basic_auth | bearer | cookies? | http_auth | jwts? | mfa_code
        | otp(?:_code)? | (?: admin | db | key | mail | root | smtp | ssh | store | user )?pass
        | pats? | pem | pkey | pw | sas(?:_url)? | session_?(?:cookie|id) | signature | totp
        | (?:incoming_)?web_?hooks?(?:_ur[il]s?)? )
        _?[0-9]*$""",
    re.VERBOSE,
)
# everyday meanings of these words: `n_pass`, `forward_pass`, `model_signature`
_COMMON = re.compile(
    r"""(?:^|_) (?: all | backward | band | by | compute | decoder | each | encoder | first
        | forward | high | last | low | max | min | multi | n | num | one | per | second | single
        | test | this | train | two | valid ) _pass
    | (?:^|_) (?: call | function | infer | input | log | method | model | output | serving | type )
        _signature""",
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
# the environment variables of a shell; a `pwd` in another spelling is a password
_FOLDERS = ("PWD", "OLDPWD")


@lru_cache(maxsize=4096)
def names_a_secret(key: str) -> bool:
    """Returns whether a key has a secret value, for example `api_key` or `db.password`."""
    words = _BOUNDARY.sub("_", key).lower()
    last = words.rpartition(".")[2].strip("_")
    if last == "pwd":
        return key not in _FOLDERS
    if (found := _ANYWHERE.search(words)) is not None:
        return "token" not in found.group() or _TEXT_TOKEN.search(last) is None
    return _LAST.search(last) is not None and _COMMON.search(last) is None
