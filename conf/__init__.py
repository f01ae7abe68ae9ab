"""Hydra configuration: a typed schema and the groups of YAML files."""

from nntrain.conf import schema

__all__ = ["schema"]
