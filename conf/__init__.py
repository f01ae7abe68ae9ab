"""The configuration: the schema, and the groups of YAML files."""
