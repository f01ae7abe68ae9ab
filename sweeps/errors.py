"""The exception for sweeps that cannot run."""

from __future__ import annotations

from nntrain.config.errors import ConfigError


class SweepError(ConfigError):
    """Raised when a sweep cannot start or continue; the message says what to change."""
