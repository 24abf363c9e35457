"""Fronts that could not be suspended, or not be resumed: in another order, or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MIB, Lab, dmsnap, refused, run
from patience import PATIENCE_SECONDS, until

from dmsnap.errors import ExitCode
from dmsnap.host.dm import device as dm
from dmsnap.service.volumes import protect
from dmsnap.snapshot.suspension import needed_blocks


@contextmanager
def writing(*files: Path) -> Iterator[None]:
    """A thread for each, which writes it anew and anew, and has it on the disk."""
    ends = threading.Event()
    begun = [threading.Event() for _ in files]

    def write(place: int) -> None:
        while not ends.is_set():
            descriptor = os.open(files[place], os.O_WRONLY | os.O_CREAT)
            for offset in range(0, 4 * MIB, 256 * 1024):
                os.pwrite(descriptor, os.urandom(4096), offset)
            os.fsync(descriptor)
            os.close(descriptor)
            begun[place].set()

    threads = [threading.Thread(target=write, args=(place,)) for place in range(len(files))]
    for thread in threads:
        thread.start()
    try:
        assert all(event.wait(PATIENCE_SECONDS) for event in begun)
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("fs_type", ["", "ext4"])
def test_one_of_a_set_has_its_store_on_another(lab: Lab, fs_type: str) -> None:
    """Its suspend and its resume write to the other one's file system: that is frozen after it."""
    below, above = lab.disk(256 * MIB), lab.disk(64 * MIB)
    root = lab.mounted(below)
    bearer = lab.protect(below, lab.disk(384 * MIB))
    store = root / "store"
    store.mkdir()
    written = lab.mounted(above, fs_type) / "file" if fs_type else None
    borne = lab.name()
    dmsnap("protect", above, "--name", borne, "--recovery", lab.disk(128 * MIB), "--store", store)
    try:
        with writing(root / "file", written or Path("/dev/mapper") / borne):
            for names in ((bearer, borne), (borne, bearer), (bearer,)):
                points = dmsnap("point", "create", *names)
                assert [point["volume"] for point in points] == list(names)
                assert all(point["invalid_reason"] is None for point in points)
            for name in (bearer, borne):
                assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0
    finally:
        dmsnap("unprotect", borne)
        if fs_type:
            run("umount", lab.mounts.pop())


def test_without_room_in_its_era_metadata_a_front_is_not_suspended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are filled by a metadata snapshot, as a sync that was killed leaves one."""
    nr_blocks = 100 * 1018  # to a metadata block of the era array, of 256 blocks in all
    monkeypatch.setattr(protect, "era_metadata_bytes", lambda *_: MIB)
    disk, recovery = lab.disk(nr_blocks * 4096), lab.disk(nr_blocks * 4096 + 64 * MIB)
    name = lab.protect(disk, recovery, "--block-size", 4096)
    front = Path("/dev/mapper") / name
    run("dmsetup", "message", name, "0", "take_metadata_snap")
    write_everywhere(front, nr_blocks)
    run("dmsetup", "suspend", name)
    run("dmsetup", "resume", name)
    until(lambda: room(name) < needed_blocks(nr_blocks), "the era array is there twice")

    before = dm.era_status(name).current_era
    for command in (("point", "create", name), ("sync", name)):
        sentence = refused(ExitCode.NO_SPACE, *command)
        assert f"{name} cannot be suspended: its era metadata have" in sentence
    assert dm.era_status(name).current_era == before
    write_everywhere(front, nr_blocks)

    run("dmsetup", "message", name, "0", "drop_metadata_snap")
    for words in (("point", "create", name), ("sync", name, "--audit", "full")):
        # What is digested is there twice until dm-era commits, as it does when it is asked.
        until(lambda: room(name) >= needed_blocks(nr_blocks), "there is room again")
        dmsnap(*words)


def room(name: str) -> int:
    """Free metadata blocks."""
    status = dm.era_status(name)
    return status.total - status.used


def write_everywhere(front: Path, nr_blocks: int) -> None:
    """A block to each block of the era array."""
    descriptor = os.open(front, os.O_WRONLY)
    for block in range(0, nr_blocks, 1018):
        os.pwrite(descriptor, os.urandom(4096), block * 4096)
    os.fsync(descriptor)
    os.close(descriptor)
