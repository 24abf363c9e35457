"""docs/crash-matrix.md, and what it is made of: a file of results for every scenario, beside it.

The files are committed, so that a run of some scenarios leaves the others what they came to, at
the revision and on the day they did.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crashes.cell import Moment

FAILED = "**failed**"
HEADING = """# The crash matrix

For every step of every operation: the machine loses power in the middle of the step, and right after it was done. It boots, assembles what
the boot assembles, and runs `dmsnap job resume --all`, as `dmsnap-resume.service` does. Then everything must be as before the operation
(*undone*) or as after it (*done*): volumes and where they lie, areas, points and what each of them shows, whether this host claims the recovery volume, dm devices and their targets, mounts and their options, loop devices, backstores and LUNs,
iSCSI sessions, files of the store, what lies in /etc for the boot, the content, and that of copies and snapshots; *as before*: the operation changes nothing that lasts. *Undone, label mended*: the operation found the recovery volume's label not where it
should be (its device was made larger) or another host's; that is put right first and not taken back. Then all else must be as before, and label and every point as they were when it still was right.
Every point is looked into, its files and its file system checked, and one from before the operation is the same byte for byte (with zeroes behind it where the volume was made larger). No device is suspended, no
job left. The file system is written to, checked by e2fsck, a trial reverted, a promoted volume failed back, and the next sync must equal the volume, byte for byte, by cmp.
Where a disk is gone, the volume goes on without it: by a commit and a new recovery volume, or by a revert, and by a sync once the disk is there again.
Where a trial or its commit was given up, the volume is as it was left when that began, and is protected anew once the disks are there again.

Made by `make crash-matrix`; the steps are those that the journal records of the operation where nothing happens to it, so that a new step is in it by being written, as soon as its table is made
again. A table keeps the names of all of them, and a unit test fails where an operation has a step at which no table of it has a crash. Each table says at which revision, when and on which kernel of
the lab it was measured: a run of some operations leaves the others as they were, without the checks that came later.

"""  # noqa: E501 - a line of the page


@dataclass(frozen=True, slots=True)
class Table:
    """What became of a scenario, step by step: for each, in its middle and right after it.

    ``looked_into``: what points show was compared, which it once was not. ``others``: how many
    steps the operation has besides, at which other scenarios have crashes. ``steps``: all that the
    operation had where nothing happened to it; None in tables of before that was kept.
    """

    name: str
    command: str
    revision: str
    date: str
    kernel: str
    rows: Sequence[Sequence[str]]
    looked_into: bool = False
    others: int = 0
    steps: Sequence[str] | None = None

    @property
    def crashed_at(self) -> frozenset[str]:
        """The steps that the plug was pulled at."""
        return frozenset(step for step, *_cells in self.rows)

    @property
    def planned(self) -> frozenset[str] | None:
        """All steps of the operation; None where they are not known."""
        if self.steps is not None:
            return frozenset(self.steps)
        return None if self.others else self.crashed_at

    @property
    def crashes(self) -> int:
        return len(self.rows) * len(Moment)

    @property
    def failures(self) -> int:
        return sum(cells.count(FAILED) for _step, *cells in self.rows)

    def lines(self) -> list[str]:
        """A table of the page."""
        measured = f"at {self.revision}, {self.date}, on {self.kernel}"
        if not self.looked_into:
            measured += "; points were counted and not looked into"
        if self.others:
            measured += f"; its {self.others} other steps are in other tables"
        found = [f"## {self.name}", "", f"`{self.command}`, {measured}", ""]
        found += ["| step | in its middle | right after it |", "|---|---|---|"]
        return [*found, *(f"| {' | '.join(row)} |" for row in self.rows), ""]


def path_of(results: Path, name: str) -> Path:
    """The file of a scenario's results."""
    return results / (name.replace(",", "").replace(" ", "-") + ".json")


def keep(results: Path, table: Table) -> None:
    """Put what a scenario came to in the place of what it came to before."""
    results.mkdir(parents=True, exist_ok=True)
    path_of(results, table.name).write_text(json.dumps(asdict(table), indent=1) + "\n")


def kept(results: Path, names: Sequence[str]) -> Mapping[str, Table]:
    """What is kept of those scenarios, in their order; nothing of one that was never run."""
    paths = {name: path_of(results, name) for name in names}
    return {
        name: Table(**json.loads(path.read_text())) for name, path in paths.items() if path.exists()
    }


def page(results: Path, names: Sequence[str]) -> str:
    """The page of those scenarios, and which of them were never run."""
    tables = kept(results, names)
    count = sum(table.crashes for table in tables.values())
    failed = sum(table.failures for table in tables.values())
    missing = [name for name in names if name not in tables]
    summary = f"{count} crashes, {failed} failures."
    if missing:
        summary += f" Not run: {'; '.join(missing)}."
    lines = [line for table in tables.values() for line in table.lines()]
    return HEADING + summary + "\n\n" + "\n".join(lines)
