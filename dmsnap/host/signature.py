"""What is on a device: blkid's low-level probe, past every cache. Root, or read access."""

import re
from dataclasses import dataclass
from pathlib import Path

from dmsnap.host.run import run

NOTHING_FOUND = 2
AMBIVALENT = 8

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

    Raises ``ProgramError`` when it cannot be read.
    """
    completed = run(
        "blkid", "-p", "-o", "export", "--", str(path), expected=(0, NOTHING_FOUND, AMBIVALENT)
    )
    if completed.returncode == AMBIVALENT:
        return Signature(ambivalent=True)
    return parse_export(completed.text)


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
