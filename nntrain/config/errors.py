"""What a user did wrong, told in one sentence."""


class ConfigError(ValueError):
    """A mistake of the user's, told in one sentence."""
