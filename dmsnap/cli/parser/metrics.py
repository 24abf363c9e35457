"""Metrics for monitoring."""

from dmsnap.cli.grammar import Command

METRICS = Command(
    "metrics",
    "Print metrics of every volume in Prometheus's text format.",
    "metrics.metrics",
    details="The same as dmsnapd writes to the file that the setting metrics_file names.",
)
