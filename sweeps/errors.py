"""What is told to people who have asked for a sweep that cannot be."""

from __future__ import annotations


class SweepError(ValueError):
    """A mistake in what was asked for, in one sentence: what was wrong, what was expected, what to do."""
