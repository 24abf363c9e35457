"""Volumes that follow devices which were made larger."""
