"""Capture: what a run records of its surroundings."""
