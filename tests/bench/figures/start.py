"""The start of the program, which every command pays."""

from collections.abc import Iterator

from measure.model import Figure, Goal, Unit
from measure.process import alternating, programs, series
from measure.setting import Setting

LIMIT_SECONDS = 0.2


def measure(setting: Setting) -> Iterator[Figure]:
    """``dmsnap --version`` and ``--help`` beside an interpreter that does nothing."""
    commands = {
        "dmsnap --version": [setting.program, "--version"],
        "dmsnap --help": [setting.program, "--help"],
        "python": [setting.python, "-S", "-c", "pass"],
    }
    taken = alternating(setting.rounds(25, 5), programs(commands))
    yield Figure(
        key="start",
        title="From the command line to its end",
        text="Modules are in the page cache. The bare interpreter is the lower limit.",
        unit=Unit.SECONDS,
        series=tuple(series(name, "warm", taken[name], commands[name]) for name in commands),
        subject="dmsnap --version",
        limits=("python",),
        goals=(Goal("the start takes under 0.2 s", "warm", "dmsnap --version", LIMIT_SECONDS),),
    )
