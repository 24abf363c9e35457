"""The page: machines, sections, figures, goals."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from measure.model import Figure, Machine, Plot, Section, Statistic, Unit
from measure.summary import Verdict, verdict

from report import plot, table
from report.quantity import exact, number

HEAD = """# Benchmarks

Written by `make bench`, which runs on any machine with root and the lab; `make bench SECTION=NAME`
measures one section again. Contestants do the same work on the same devices, in turn, and every
other round backwards. Numbers are medians, with the smallest and the largest in brackets. Ratios
are taken round by round, so that what slows a whole round down does not count. "Not decided" means
that ratios lie on both sides of 1, "limit" what the machine can do and nobody would use instead.
Seconds are this machine's; the ratios are what to compare.
"""
QUICK = """
**A quick round on small volumes: it proves that the bench runs, its numbers mean nothing.**
"""
UNITS = {Statistic.CPU: Unit.SECONDS, Statistic.MEMORY: Unit.BYTES}
NS_PER_S = 1_000_000_000


def write(sections: Sequence[Section], page: Path, plots: Path) -> None:
    """Write the page, and its plots into the directory ``plots`` beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(sections, plots.name))
    for section in sections:
        for figure in section.figures:
            if figure.plot is not Plot.NONE:
                plots.mkdir(parents=True, exist_ok=True)
                plot.draw(figure, plots / f"{figure.key}.svg")


def render(sections: Sequence[Section], plots: str) -> str:
    """The page as Markdown; it refers to plots as ``plots/KEY.svg``."""
    machines = distinct(sections)
    parts = [HEAD]
    if any(section.quick for section in sections):
        parts.append(QUICK)
    parts += goals_summary(sections)
    parts += ["## Machines\n", *(machine_text(each, machines) for each in machines)]
    for section in sections:
        parts += section_text(section, machines, plots)
    return "\n".join(parts)


def distinct(sections: Sequence[Section]) -> list[Machine]:
    """The machines of all sections, each once, whatever their load was."""
    found = {quiet(each): None for section in sections for each in section.machines}
    return list(found)


def quiet(machine: Machine) -> Machine:
    return replace(machine, load_average=0.0)


def goals_summary(sections: Sequence[Section]) -> list[str]:
    """All goals at once, the missed ones as visible as the others."""
    verdicts = [
        (figure, verdict(figure, goal))
        for section in sections
        for figure in section.figures
        for goal in figure.goals
    ]
    if not verdicts:
        return []
    lines = ["## Goals\n", "| goal | bound | reached | |", "|---|---:|---:|---|"]
    lines += [goal_row(figure, each) for figure, each in verdicts]
    return [*lines, ""]


def goal_row(figure: Figure, reached: Verdict) -> str:
    goal = reached.goal
    sign = "≥" if goal.at_least else "≤"
    bound, value = (goal_value(figure, reached, each) for each in (goal.bound, reached.value))
    word = "met" if reached.met else "**missed**"
    return f"| {goal.text} | {sign} {bound} | {value} | {word} |"


def goal_value(figure: Figure, reached: Verdict, value: float) -> str:
    if reached.goal.against:
        return f"{number(value)} × {reached.goal.against}"
    return exact(UNITS.get(reached.goal.statistic, figure.unit), value)


def label(machine: Machine, machines: Sequence[Machine]) -> str:
    """``A``, ``B``, …: how sections refer to a machine."""
    return chr(ord("A") + machines.index(quiet(machine)))


def machine_text(machine: Machine, machines: Sequence[Machine]) -> str:
    versions = "; ".join(f"{name}: {said}" for name, said in machine.versions)
    return (
        f"**{label(machine, machines)}**, {machine.name}: {machine.system}, {machine.kernel}, "
        f"{machine.nr_processors} × {machine.processor}, {exact(Unit.BYTES, machine.memory_bytes)} "
        f"of memory, {machine.storage}. {versions}.\n"
    )


def section_text(section: Section, machines: Sequence[Machine], plots: str) -> Iterator[str]:
    """A section's heading, when and on what it was measured, and its figures."""
    begun = datetime.fromtimestamp(section.begun_ns // NS_PER_S, UTC)
    on = " and ".join(label(each, machines) for each in section.machines)
    load = section.machines[0].load_average
    yield f"## {section.title}\n"
    yield (
        f"Measured {begun:%Y-%m-%d %H:%M} UTC in {section.seconds:.0f} s at revision "
        f"`{section.revision}` on {on}; load average before it {load:.2f}.\n"
    )
    for figure in section.figures:
        yield from figure_text(figure, plots)


def figure_text(figure: Figure, plots: str) -> Iterator[str]:
    """A figure's table, plot and command lines."""
    yield f"### {figure.title}\n"
    yield f"{figure.text} Samples of each: {table.rounds(figure)}.\n"
    yield table.table(figure) + "\n"
    if figure.plot is not Plot.NONE:
        yield f"![{figure.title}]({plots}/{figure.key}.svg)\n"
    commands = table.commands(figure)
    if commands:
        yield "\n".join(["```", *commands, "```", ""])
