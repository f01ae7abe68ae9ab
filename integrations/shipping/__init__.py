"""Shipping: delivers journals to trackers, from a process beside the training process."""
