"""Tracking: the journal that training writes, the shipper that delivers it, and the trackers."""
