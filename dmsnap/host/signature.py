"""What is on a device: blkid's low-level probe, past every cache. Root, or read access."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dmsnap.host.blockdev import open_shared
from dmsnap.host.run import run
from dmsnap.host.system_call import system_call
from dmsnap.units import MIB

NOTHING_FOUND = 2
AMBIVALENT = 8

# Where libblkid looks: RAID and GPT have something at the end, VMFS and UDF up to 2 MiB.
START_BYTES = 4 * MIB
END_BYTES = MIB

_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Signature:
    """What was recognised, in libblkid's words; None for what it did not say.

    ``usage`` is ``filesystem``, ``raid`` (LVM2_member, linux_raid_member), ``crypto`` or ``other``
    (swap). ``partition_table`` is ``dos``, ``gpt``… ``ambivalent``: several contradict each other,
    and nothing else is set.
    """

    fs_type: str | None = None
    uuid: str | None = None
    label: str | None = None
    usage: str | None = None
    partition_table: str | None = None
    ambivalent: bool = False

    def __str__(self) -> str:
        if self.ambivalent:
            return "several contradicting signatures"
        kind = self.fs_type or f"a {self.partition_table} partition table"
        named = f" {self.label!r}" if self.label else ""
        return f"{kind}{named}" + (f" (UUID {self.uuid})" if self.uuid else "")


def probe(path: Path) -> Signature | None:
    """The signature on a device or an image file; None when there is none that is known.

    ``OperatingSystemError`` when it cannot be read: it may hold anything then.
    """
    completed = run(
        "blkid", "-p", "-o", "export", "--", str(path), expected=(0, NOTHING_FOUND, AMBIVALENT)
    )
    if completed.returncode == AMBIVALENT:
        return Signature(ambivalent=True)
    found = parse_export(completed.text)
    if found is None:
        _require_readable(path)
    return found


def _require_readable(path: Path) -> None:
    """Raise where signatures lie and cannot be read: blkid tells of an empty device the same."""
    with open_shared(path, direct=False) as fd, system_call(f"read what is on {path}"):
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        for begin, end in ((0, START_BYTES), (max(0, size_bytes - END_BYTES), size_bytes)):
            position = begin
            while position < end and (piece := os.pread(fd, min(MIB, end - position), position)):
                position += len(piece)


def wipe(path: Path) -> None:
    """Make every signature on a device unrecognisable (wipefs(8)). Root.

    Raises ``ProgramError`` when it is in use.
    """
    run("wipefs", "--all", "--", str(path))


def parse_export(text: str) -> Signature | None:
    """Read ``KEY=value`` lines; unsafe characters of a value stand behind a backslash."""
    pairs = (line.partition("=") for line in text.splitlines())
    tags = {key: _ESCAPED.sub(r"\1", value) for key, _, value in pairs}
    if "TYPE" not in tags and "PTTYPE" not in tags:
        return None
    return Signature(
        fs_type=tags.get("TYPE"),
        uuid=tags.get("UUID"),
        label=tags.get("LABEL"),
        usage=tags.get("USAGE"),
        partition_table=tags.get("PTTYPE"),
    )
