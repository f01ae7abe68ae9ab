"""Exceptions for configuration mistakes."""


class ConfigError(ValueError):
    """Raised for a mistake in a configuration or on the command line."""
