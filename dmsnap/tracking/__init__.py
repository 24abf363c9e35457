"""Trackers: which bytes may differ between the replica and a point."""
