"""Snapshot providers: dm-snapshot's, and LVM's, thick and thin."""
