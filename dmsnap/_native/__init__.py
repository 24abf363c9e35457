"""Typed wrappers over the C core in ``native/``."""
