"""Checks of settings that W&B itself checks only after the start. Does not import wandb."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from nntrain.config.errors import ConfigError
from nntrain.config.redact import redact

MAX_PROJECT = 128
"""Maximum length of a project's name."""

MAX_TAG = 64
"""Maximum length of a tag."""


def check_project(name: str) -> None:
    """Checks the name of a project.

    Raises:
        ConfigError: if W&B refuses the name.
    """
    shown = name if len(name) <= MAX_PROJECT else f"{name[:50]}..."
    if len(name) > MAX_PROJECT or any(char in name for char in "/\\#?%:"):
        raise ConfigError(
            f"W&B does not accept the project {shown!r}: set tracker.wandb.project or "
            f"WANDB_PROJECT to at most {MAX_PROJECT} characters without any of / \\ # ? % :."
        )


def check_tags(tags: Sequence[str]) -> None:
    """Checks the tags of a run.

    Raises:
        ConfigError: if W&B refuses a tag.
    """
    for tag in tags:
        if not 1 <= len(tag) <= MAX_TAG:
            raise ConfigError(
                f"W&B does not accept the tag {tag!r}: each tag in tracker.wandb.tags or "
                f"WANDB_TAGS must have 1 to {MAX_TAG} characters."
            )


def check_base_url(url: str | None) -> None:
    """Checks the URL of a server; `None` is W&B's own one.

    Raises:
        ConfigError: if it is not the URL of a server.
    """
    if url is not None and not _is_server(url):
        raise ConfigError(
            f"W&B does not accept the server {redact(url)}: set tracker.wandb.base_url or "
            "WANDB_BASE_URL to a URL such as https://api.wandb.ai."
        )


def _is_server(url: str) -> bool:
    try:
        found = urlsplit(url)
        return found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        return False
