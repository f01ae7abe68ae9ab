"""Trackers, and the callback that feeds them."""
