"""Swaps: trial, revert, commit, failback, and recovery by a label alone."""
