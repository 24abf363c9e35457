"""Replicas: brought up to date, and audited."""
