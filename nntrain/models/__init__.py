"""Models for small data."""
