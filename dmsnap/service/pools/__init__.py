"""Pools of recovery volumes: what is free, what is taken, what comes back."""
