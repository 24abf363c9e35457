"""How commands grow with the volume: an XFS on sparse files, 8 MiB of it dirty."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure.devices import GIB, KIB, MIB, SECTOR, TIB
from measure.model import Figure, Goal, Plot, Series, Unit
from measure.process import BenchError, Usage, run, series, used
from measure.setting import Setting

from dmsnap.host.dm import device, target
from figures.protected import NAME
from figures.sparse import small_stores, sparse_files, sparse_volume

SIZES = {
    "1 GiB": GIB, "16 GiB": 16 * GIB, "256 GiB": 256 * GIB, "1 TiB": TIB, "4 TiB": 4 * TIB,
    "16 TiB": 16 * TIB,
}  # fmt: skip
QUICK_SIZES = ("1 GiB", "16 GiB")
DIRTY_BYTES = 8 * MIB
FIRST_COPY_SECONDS = 240  # what is not copied by then is ended
ENDED_COPY_SECONDS = 60  # on the sizes after that, which show what memory it takes
MEMORY_LIMIT = 150 * MIB
TIMED_OUT = 124  # timeout(1)


@dataclass(slots=True)
class Growth:
    """What was measured so far: commands, and the metadata of dm-era."""

    commands: list[Series] = field(default_factory=list)
    metadata: list[Series] = field(default_factory=list)
    ended: list[Series] = field(default_factory=list)  # first copies that were, and their memory
    block_bytes: dict[str, int] = field(default_factory=dict)  # of dm-era, for each size

    def add(self, name: str, case: str, command: Sequence[object], usage: Usage) -> None:
        self.commands.append(series(name, case, [usage], command, position=SIZES[case]))


def measure(setting: Setting) -> Iterator[Figure]:
    """Every command once at every size; a size that cannot be protected in time ends it."""
    growth = Growth()
    with small_stores(), sparse_files(setting.scratch) as directory:
        for case in QUICK_SIZES if setting.quick else SIZES:
            at_size(case, directory, setting, growth)
    yield from figures(growth)


def at_size(case: str, directory: Path, setting: Setting, growth: Growth) -> None:
    """All commands on a volume of one size, or only protect if its first copy takes too long."""
    with sparse_volume(directory, SIZES[case], setting) as volume:
        protect = ("dmsnap", "protect", volume.primary, "--name", NAME, "--recovery",
                   volume.recovery, "--store", volume.store)  # fmt: skip
        limit_seconds = ENDED_COPY_SECONDS if growth.ended else FIRST_COPY_SECONDS
        # SIGTERM undoes all of it.
        usage = used("timeout", limit_seconds, *protect, timeout=1200, expected=(0, TIMED_OUT))
        if usage.seconds > limit_seconds:
            growth.ended.append(series("protect", case, [usage], protect, position=SIZES[case]))
            return
        growth.add("protect", case, protect, usage)
        try:
            commands(case, volume.mount_point, growth)
        finally:
            run("dmsnap", "unprotect", NAME, "--forget")


def commands(case: str, mount_point: Path, growth: Growth) -> None:
    """The everyday commands, each once: they leave the volume as it was."""
    status = device.era_status(NAME)
    used_bytes = status.used * status.metadata_block_size_sectors * SECTOR
    growth.block_bytes[case] = era_block_bytes()
    growth.metadata.append(
        Series(
            "era metadata",
            case,
            (used_bytes,),
            position=SIZES[case],
            command=f"dmsetup status {NAME}",
            note=f"blocks of {readable(growth.block_bytes[case])}",
        )
    )
    written = dirty(mount_point / "dirty")
    for name, command in (
        ("status", ("dmsnap", "status")),
        ("point create", ("dmsnap", "point", "create", NAME)),
        ("sync", ("dmsnap", "sync", NAME)),
        ("swap", ("dmsnap", "swap", NAME)),
        ("swap revert", ("dmsnap", "swap", "revert", NAME)),
    ):
        growth.add(name, case, command, used(*command))
        if name == "swap" and (mount_point / "dirty").read_bytes() != written:
            raise BenchError(f"what the sync brought over of {case} is not what was written")
    for point in json.loads(run("dmsnap", "point", "list", NAME, "--json")):
        if any(place["kind"] == "live" for place in point["places"]):
            run("dmsnap", "point", "delete", point["id"])


def era_block_bytes() -> int:
    """What dm-era tracks as one block: protect chooses it by the size of the volume."""
    (line,) = device.table(NAME)
    assert isinstance(line.target, target.Era)
    return line.target.block_bytes


def readable(block_bytes: int) -> str:
    """The size of a block, for people."""
    return f"{block_bytes // KIB} KiB"


def blocks(block_bytes: Mapping[str, int]) -> str:
    """What was tracked as a block, and from which volume on: by cases, which ascend."""
    begins = {size: case for case, size in reversed(list(block_bytes.items()))}
    (_, smallest), *_ = block_bytes.items()
    return ", ".join(
        readable(size) if size == smallest else f"{readable(size)} from {begins[size]} on"
        for size in sorted(begins)
    )


def dirty(path: Path) -> bytes:
    """Write a new file out, and return what is in it."""
    content = os.urandom(DIRTY_BYTES)
    path.write_bytes(content)
    run("sync", "--file-system", path)
    return content


def figures(growth: Growth) -> Iterator[Figure]:
    """Seconds, memory and metadata over the size."""
    ended = (
        f" The first copies of {', '.join(each.case for each in growth.ended)} were ended after "
        f"{FIRST_COPY_SECONDS} s, or {ENDED_COPY_SECONDS} s where a smaller one was: only the "
        "memory that they took is known."
        if growth.ended
        else ""
    )
    text = (
        "A mounted XFS on sparse files, with 8 MiB written since the last sync; era blocks as "
        f"protect chooses them: {blocks(growth.block_bytes)}.{ended}"
    )
    yield Figure(
        key="growth-seconds",
        title="Seconds of each command over the size of the volume",
        text=text,
        unit=Unit.SECONDS,
        series=tuple(growth.commands),
        plot=Plot.LINES,
        axis="volume",
    )
    memory = tuple(
        Series(each.contestant, each.case, each.peak_bytes, position=each.position)
        for each in growth.commands + growth.ended
    )
    largest = memory[-1].case
    yield Figure(
        key="growth-memory",
        title="Peak resident memory of each command over the size of the volume",
        text=text,
        unit=Unit.BYTES,
        series=memory,
        plot=Plot.LINES,
        axis="volume",
        goals=tuple(
            Goal(f"memory of dmsnap {each.contestant} on {largest}", largest, each.contestant,
                 MEMORY_LIMIT)
            for each in memory if each.case == largest
        ),
    )  # fmt: skip
    yield Figure(
        key="growth-metadata",
        title="dm-era's metadata over the size of the volume",
        text=text,
        unit=Unit.BYTES,
        series=tuple(growth.metadata),
        plot=Plot.LINES,
        axis="volume",
    )
