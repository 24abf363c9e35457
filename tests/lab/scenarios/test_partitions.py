"""Raw partitions as volumes and as recovery volumes: what lies beside them is never touched."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import MIB, Lab, dmsnap, run, sha256, world
from raw_volume import WAYS, fill, write_direct

SIZE = 32 * MIB
HISTORY = 32 * MIB
SECTORS_A_MIB = MIB // 512


@dataclass(frozen=True)
class Parted:
    """A disk of three partitions full of random bytes; the one in the middle is what is used."""

    disk: str
    device: str
    size_bytes: int

    def around(self) -> tuple[str, ...]:
        """What is on the disk beside the partition: both neighbours, and the tables."""
        with open(self.disk, "rb", buffering=0) as disk:
            front = os.pread(disk.fileno(), MIB, 0)
            end = disk.seek(0, os.SEEK_END)
            back = os.pread(disk.fileno(), MIB, end - MIB)
        return (sha256(f"{self.disk}p1"), sha256(f"{self.disk}p3"), front.hex(), back.hex())


def parted(lab: Lab, size_bytes: int, *, sectors_off: int = 0) -> Parted:
    """``sectors_off``: how far the partition begins behind a border of 4 KiB."""
    image = lab.directory / f"parted-{len(lab.loops)}.img"
    with image.open("wb") as file:
        file.truncate(size_bytes + 4 * MIB)
    begin, sectors = 2 * SECTORS_A_MIB + sectors_off, size_bytes // 512
    rows = (f"2048,{begin - 2048}", f"{begin},{sectors}", f"{begin + sectors},")
    table = "label: gpt\n" + "".join(f"{row}\n" for row in rows)
    subprocess.run(["sfdisk", "-q", image], input=table.encode(), check=True)
    disk = run("losetup", "--find", "--show", "--partscan", image).strip()
    lab.loops.append(disk)
    for number in (1, 2, 3):
        device = Path(f"{disk}p{number}")
        fill(device, int(run("blockdev", "--getsize64", device)))
    return Parted(disk, f"{disk}p2", size_bytes)


@pytest.mark.parametrize("sectors_off", [0, 1])
def test_a_partition_is_swapped_and_its_neighbours_stay(lab: Lab, sectors_off: int) -> None:
    primary = parted(lab, SIZE, sectors_off=sectors_off)
    recovery = parted(lab, SIZE + HISTORY, sectors_off=sectors_off)
    around = (primary.around(), recovery.around())
    name = lab.protect(primary.device, recovery.device)
    front = f"/dev/mapper/{name}"

    contents = [sha256(front)]
    for way in ("direct", "buffered"):
        WAYS[way](Path(front), SIZE)
        result = dmsnap("sync", name)
        assert result["tracker"] == "era", result["reason"]
        contents.append(sha256(front))
        assert sha256(recovery.device, SIZE) == contents[-1]

    write_direct(front, bytes(8 * MIB), 0)
    spoiled = sha256(front)
    points = [point["id"] for point in dmsnap("point", "list", name)]
    for point, content in zip(points[::-1], contents[::-1], strict=True):
        dmsnap("swap", name, "--to", point, "--trial")
        assert sha256(front) == content
        write_direct(front, os.urandom(MIB), 3 * MIB)
        dmsnap("swap", "revert", name)
        assert sha256(front) == spoiled

    dmsnap("swap", name)
    dmsnap("swap", "commit", name)
    assert sha256(front) == contents[-1]
    assert (primary.around(), recovery.around()) == around
    dmsnap("failback", name)
    assert sha256(front) == sha256(primary.device) == contents[-1]
    dmsnap("unprotect", name, "--forget")
    assert sha256(primary.device) == contents[-1]
    assert (primary.around(), recovery.around()) == around


def test_a_disk_is_not_protected_over_its_partitions_volume(lab: Lab) -> None:
    primary, recovery, other = parted(lab, SIZE), lab.disk(2 * SIZE), lab.disk(2 * SIZE + 8 * MIB)
    name = lab.protect(primary.device, recovery)
    before = world(lab, primary.device, recovery, other)
    for device, onto in ((primary.disk, other), (f"{primary.disk}p1", primary.disk)):
        error = dmsnap("protect", device, "--name", lab.name(), "--recovery", onto,
                       "--store", lab.store(), expected=None)  # fmt: skip
        assert Path(primary.device).name in error["error"], error
    assert world(lab, primary.device, recovery, other) == before
    dmsnap("sync", name)
