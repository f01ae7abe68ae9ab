"""Errors of the user."""


class ConfigError(ValueError):
    """A mistake in a configuration or on the command line, explained in one sentence."""
