"""Trackers, and the callback that feeds them."""

from nntrain.integrations.adapter import TrackerCallback
from nntrain.integrations.base import RunInfo, Tracker
from nntrain.integrations.mlflow import MLflowTracker

__all__ = ["MLflowTracker", "RunInfo", "Tracker", "TrackerCallback"]
