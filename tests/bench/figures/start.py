"""The start of the program."""

from pathlib import Path

from figures.bench import alternating, heading, row, run, spread

ROUNDS = 15


def measure(program: Path) -> None:
    """``dmsnap --version`` beside an interpreter that does nothing."""
    heading("start, seconds: median (min-max)")
    bare, version, helped = alternating(
        ROUNDS,
        lambda: run(program.with_name("python"), "-S", "-c", "pass"),
        lambda: run(program, "--version"),
        lambda: run(program, "--help"),
    )
    row("python -S -c pass", spread(bare))
    row("dmsnap --version (goal: under 0.2)", spread(version))
    row("dmsnap --help", spread(helped))
