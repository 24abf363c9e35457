"""Labels that are damaged, another host's, another volume's or newer than the catalogue."""

import os
from dataclasses import replace
from uuid import uuid4

import pytest
from conftest import MIB, Lab, dmsnap, refused, sha256, world
from hosts import HERE, THERE, become
from lost_state import label_of, points_on, spoil_sector, write_label
from raw_volume import Protected, protected, write_direct

from dmsnap._native import label as labels
from dmsnap._native.label import HistoryFlag
from dmsnap.errors import ExitCode

SIZE = 32 * MIB


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    become(monkeypatch, HERE)
    return monkeypatch


def changed(volume: Protected) -> None:
    write_direct(volume.front, os.urandom(256 * 1024), 3 * MIB)


def synced(lab: Lab) -> tuple[Protected, str]:
    """A volume with two points, and the content of the older one."""
    volume = protected(lab, SIZE)
    older = sha256(volume.front)
    changed(volume)
    volume.sync()
    return volume, older


@pytest.mark.parametrize("slot", [0, 1])
def test_one_sector_is_damaged(lab: Lab, slot: int) -> None:
    """The other one says the same: nothing is lost, status says so, and the next sync mends it."""
    volume, older = synced(lab)
    good = volume.label()
    spoil_sector(volume.recovery, slot)
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    (problem,) = status["problems"]
    assert volume.recovery in problem
    assert "label sectors" in problem
    assert volume.label() == good | {"twin": "damaged"}
    newest = sha256(volume.front)
    for point, content in zip(points_on(volume.name), (newest, older), strict=True):
        dmsnap("swap", volume.name, "--to", point)
        assert sha256(volume.front) == content
        dmsnap("swap", "revert", volume.name)
    changed(volume)
    assert volume.sync()["tracker"] == "era"
    volume.check_equal()
    assert dmsnap("status", volume.name)[0]["problems"] == []
    dmsnap("swap", volume.name, "--to", points_on(volume.name)[2])
    assert sha256(volume.front) == older


def test_both_sectors_are_damaged(lab: Lab) -> None:
    volume, _ = synced(lab)
    newest = sha256(volume.front)
    spoil_sector(volume.recovery, 0)
    spoil_sector(volume.recovery, 1)
    before = world(lab, volume.primary, volume.recovery)
    for words in (
        ("sync", volume.name),
        ("swap", volume.name),
        ("swap", "--from-label", volume.recovery),
    ):
        sentence = refused(ExitCode.CORRUPT, *words)
        assert "checksum" in sentence
        assert volume.recovery in sentence
        assert world(lab, volume.primary, volume.recovery) == before
    dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    result = dmsnap("catalogue", "rebuild", expected=ExitCode.UNHEALTHY)
    assert any("checksum" in problem for problem in result["problems"])
    assert sha256(volume.front) == newest


def test_a_rotten_sector_of_labels_that_were_written_in_turn(lab: Lab) -> None:
    """The sector that is left may be of long ago: nothing that it says is believed."""
    volume, _ = synced(lab)
    with label_of(volume.recovery) as (fd, size_bytes, current):
        at = labels.offset(size_bytes)
        for slot in (0, 1):
            former = replace(
                current, generation=current.generation + slot, host_uuid=None, lease_time_ns=0,
                block_size=0, chunk_size=0, device="", store="", mount_point="", mount_options="",
            )  # fmt: skip
            os.pwrite(fd, labels.encode(former), at + slot * 4096)
    assert volume.label()["twin"] == "earlier"
    spoil_sector(volume.recovery, 1)
    assert volume.label()["twin"] == "doubtful"
    before = world(lab, volume.primary, volume.recovery)
    for words in (
        ("sync", volume.name),
        ("swap", volume.name),
        ("point", "delete", points_on(volume.name)[1]),
    ):
        sentence = refused(ExitCode.CORRUPT, *words)
        assert "may have been the newer one" in sentence
        assert world(lab, volume.primary, volume.recovery) == before
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert any("may have been the newer one" in problem for problem in status["problems"])
    dmsnap("unprotect", volume.name)
    assert "may have been" in refused(
        ExitCode.CORRUPT, "swap", "--from-label", volume.recovery, "--store", lab.store()
    )
    dmsnap(
        "protect", volume.primary, "--name", volume.name, "--recovery", volume.recovery,
        "--store", lab.store(), "--full",
    )  # fmt: skip
    volume.check_equal()
    assert len(points_on(volume.name)) == 1


def test_labels_of_before(lab: Lab) -> None:
    """Version 1: read as ever, and the next sync makes it one of version 2, in both sectors."""
    volume, older = synced(lab)
    with label_of(volume.recovery) as (fd, size_bytes, current):
        former = replace(
            current, host_uuid=None, lease_time_ns=0, block_size=0, chunk_size=0,
            device="", store="", mount_point="", mount_options="",
        )  # fmt: skip
        at = labels.offset(size_bytes)
        os.pwrite(fd, labels.encode(replace(former, generation=current.generation + 1)), at)
    assert volume.label()["lease_time_ns"] == 0
    assert dmsnap("status", volume.name)[0]["problems"] == []
    dmsnap("swap", volume.name, "--to", points_on(volume.name)[1])
    assert sha256(volume.front) == older
    dmsnap("swap", "revert", volume.name)
    changed(volume)
    assert volume.sync()["tracker"] == "era"
    volume.check_equal()
    found = volume.label()
    assert (found["host_uuid"], found["device"]) == (str(HERE), volume.primary)
    assert (found["store"], found["block_size"], found["twin"]) == (lab.store(), 128, "same")


def test_another_volumes_label(lab: Lab) -> None:
    volume, _ = synced(lab)
    before = write_label(volume.recovery, volume_uuid=uuid4(), name="other")
    state = world(lab, volume.primary, volume.recovery)
    for words in (("sync", volume.name), ("swap", volume.name)):
        sentence = refused(ExitCode.FOREIGN_DEVICE, *words)
        assert "is the recovery volume of other" in sentence
        assert world(lab, volume.primary, volume.recovery) == state
    assert before.name == "other"
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert status["replica"] is None


def test_a_label_newer_than_the_catalogue(lab: Lab) -> None:
    """As after a catalogue was restored from a backup: its points are unknown, so compare."""
    volume, older = synced(lab)
    known = points_on(volume.name)
    unknown = uuid4()
    with label_of(volume.recovery) as (fd, size_bytes, current):
        newer = replace(
            current,
            generation=current.generation + 40,
            flags=HistoryFlag(0),
            point_uuid=unknown,
            point_time_ns=current.point_time_ns + 10**9,
        )
        for slot in (0, 1):
            os.pwrite(fd, labels.encode(newer), labels.offset(size_bytes) + slot * 4096)
    newest = sha256(volume.front)
    assert str(unknown) in points_on(volume.name)
    dmsnap("swap", volume.name)
    assert sha256(volume.front) == newest
    dmsnap("swap", "revert", volume.name)
    changed(volume)
    result = volume.sync()
    assert result["tracker"] == "compare"
    assert "does not know the replica's point" in result["reason"]
    volume.check_equal()
    assert known[1] in points_on(volume.name)
    dmsnap("swap", volume.name, "--to", known[1])
    assert sha256(volume.front) == older


def test_lease(lab: Lab, host: pytest.MonkeyPatch) -> None:
    """One host writes to a recovery volume; another one takes it over only by force."""
    volume, _ = synced(lab)
    first = volume.label()
    assert (first["host"], first["host_uuid"]) == ("host-1234", str(HERE))
    changed(volume)
    volume.sync()
    assert volume.label()["lease_time_ns"] > first["lease_time_ns"]

    become(host, THERE)
    before = world(lab, volume.primary, volume.recovery)
    for words in (("sync", volume.name), ("swap", volume.name)):
        sentence = refused(ExitCode.FOREIGN_DEVICE, *words)
        assert "host-1234" in sentence
        assert "last sign of life is of 20" in sentence
        assert world(lab, volume.primary, volume.recovery) == before
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert any("host-1234" in problem for problem in status["problems"])
    changed(volume)
    volume.sync("--force")
    volume.check_equal()
    assert volume.label()["host"] == "host-5678"
    assert dmsnap("status", volume.name)[0]["problems"] == []
    volume.sync()
    become(host, HERE)
    assert "host-5678" in refused(ExitCode.FOREIGN_DEVICE, "sync", volume.name)


def test_lease_and_protect(lab: Lab, host: pytest.MonkeyPatch) -> None:
    """What another host claims is no free device, not even to be overwritten."""
    volume, _ = synced(lab)
    with label_of(volume.recovery) as (_, _, owned):
        pass
    dmsnap("unprotect", volume.name)
    with label_of(volume.recovery) as (_, _, freed):
        assert freed.host_uuid is None
        assert freed.history == owned.history
    write_label(volume.recovery, host_uuid=HERE, host="host-1234", lease_time_ns=10**18)
    become(host, THERE)
    protect = ("protect", volume.primary, "--name", volume.name, "--recovery", volume.recovery,
               "--store", lab.store())  # fmt: skip
    before = world(lab, volume.primary, volume.recovery)
    for options in ([], ["--overwrite"]):
        assert "2001-09-09" in refused(ExitCode.FOREIGN_DEVICE, *protect, *options)
        assert world(lab, volume.primary, volume.recovery) == before
    dmsnap(*protect, "--force")
    volume.check_equal()
    assert len(points_on(volume.name)) == 3
    dmsnap("unprotect", volume.name)
    # Given free, anybody may have it.
    become(host, HERE)
    dmsnap(*protect)
    volume.check_equal()
