"""Delivers journals to trackers from a separate process, the shipper."""
