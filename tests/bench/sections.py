"""The sections of the bench, in the order of the report, and how one is measured."""

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from measure import machine
from measure.model import Figure, Section
from measure.setting import CHECKOUT, Setting


class Place(Enum):
    """Where a section is measured."""

    HOST = "the host"
    GUEST = "a guest of the lab"  # where device-mapper is


@dataclass(frozen=True, slots=True)
class Chapter:
    """A section as it is planned: ``module`` is figures' own and has ``measure(setting)``."""

    name: str
    title: str
    module: str
    place: Place


CHAPTERS = (
    Chapter("start", "The start of the program", "start", Place.HOST),
    Chapter("era", "Era metadata to extents", "era", Place.HOST),
    Chapter("full-copy", "Full copy", "full_copy", Place.HOST),
    Chapter("sync", "Sync of a list of dirty blocks", "sync", Place.HOST),
    Chapter("compare", "Compare", "compare", Place.HOST),
    Chapter("command", "Sync as a whole command", "command", Place.GUEST),
    Chapter("window", "The window", "window", Place.GUEST),
    Chapter("overhead", "What the front costs a write", "overhead", Place.GUEST),
    Chapter("recovery", "The time to recover", "recovery", Place.GUEST),
    Chapter("growth", "Growth with the volume", "growth", Place.GUEST),
    Chapter("memory", "Memory of each command", "memory", Place.GUEST),
)
BY_NAME = {chapter.name: chapter for chapter in CHAPTERS}


def measure(chapter: Chapter, setting: Setting) -> Section:
    """Measure a section here. Its revision is filled in by who knows it: a guest has no git."""
    here = machine.describe(chapter.place.value, setting.scratch)
    begun_ns, begun = time.time_ns(), time.monotonic()
    measured = importlib.import_module(f"figures.{chapter.module}").measure(setting)
    figures = tuple(placed(figure, setting) for figure in told(measured))
    return Section(
        name=chapter.name,
        title=chapter.title,
        begun_ns=begun_ns,
        seconds=time.monotonic() - begun,
        quick=setting.quick,
        revision="",
        machines=(here,),
        figures=figures,
    )


def told(figures: Iterator[Figure]) -> Iterator[Figure]:
    """Say on the terminal what has been measured: a section takes minutes."""
    for figure in figures:
        print(f"  {figure.key}: {len(figure.series)} series", flush=True)
        yield figure


def placed(figure: Figure, setting: Setting) -> Figure:
    """Name directories in command lines by what they are: where they lie is no one's business."""
    names = {
        f"{CHECKOUT}/": "",
        str(setting.scratch): "$DISK",
        str(setting.memory): "$TMPFS",
    }

    def readable(command: str) -> str:
        for path in sorted(names, key=len, reverse=True):
            command = command.replace(path, names[path])
        return command

    series = (replace(each, command=readable(each.command)) for each in figure.series)
    return replace(figure, series=tuple(series))


def setting(*, quick: bool, program: Path, scratch: Path, memory: Path) -> Setting:
    """A setting with its directories made."""
    for directory in (scratch, memory):
        directory.mkdir(parents=True, exist_ok=True)
    return Setting(quick, program, scratch, memory)
