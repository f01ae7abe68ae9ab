"""The error of an invalid sweep request."""

from __future__ import annotations

from nntrain.config.errors import ConfigError


class SweepError(ConfigError):
    """A sweep cannot start or continue; the message says what was wrong and what to do."""
