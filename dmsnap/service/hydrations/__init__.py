"""Hydrations: a volume's data moved to another device while it serves."""
