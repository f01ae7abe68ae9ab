"""Turning a configuration into objects: the allow-list, the checks, and what to say when they fail."""
