"""The configuration: a typed schema and groups of YAML files."""

from nntrain.conf import schema

__all__ = ["schema"]
