"""Prometheus's text format (version 0.0.4), as node_exporter's textfile collector reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """A number, and what it is of."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """A gauge: its unit is in its name."""

    name: str
    text: str
    samples: Sequence[Sample]


def exposition(metrics: Sequence[Metric]) -> str:
    """All metrics; one without samples is left out."""
    return "".join(_metric(metric) for metric in metrics if metric.samples)


def _metric(metric: Metric) -> str:
    head = f"# HELP {metric.name} {metric.text}\n# TYPE {metric.name} gauge\n"
    return head + "".join(f"{metric.name}{_labels(each.labels)} {_number(each.value)}\n"
                          for each in metric.samples)  # fmt: skip


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Bytes exactly, however many."""
    return str(int(value)) if value == int(value) else repr(value)
