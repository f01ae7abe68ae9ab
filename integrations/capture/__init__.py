"""Captures the console output, system metrics and provenance of a run."""
