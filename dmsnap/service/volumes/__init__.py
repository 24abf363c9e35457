"""Volumes: protected and given back, their stacks built and taken down."""
