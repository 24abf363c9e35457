"""What only the catalogue knew comes back from the recovery volume; what is forged does not."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import initiator
import pytest
from conftest import MIB, Lab, catalogue_rows, content_of, dm_devices, dmsnap, forked, run, sha256
from lost_state import (
    label_of,
    lose_boot_files,
    lose_catalogue,
    lose_disk,
    lose_stack,
    lose_state_directory,
    points_on,
    write_label,
)
from raw_volume import Protected, protected, write_direct
from test_export import published, targets

from dmsnap._native import label as labels
from dmsnap.catalogue import excerpt
from dmsnap.catalogue.excerpt import Excerpt
from dmsnap.errors import ExitCode
from dmsnap.host.blockdev import open_shared
from dmsnap.recovery import backup_area
from dmsnap.service.hydrations import hydration
from dmsnap.service.hydrations.hydration import Copying
from dmsnap.service.session import Session

__all__ = ["published"]

SIZE = 32 * MIB
PORTAL = "127.0.0.1:3271"
TO = ("--portal", PORTAL, "--initiator", initiator.NAME)


def dump(name: str) -> Excerpt:
    """What is recorded of a volume, as it is backed up.

    Without when its device was last seen by its names: a rebuild sees it, too.
    """
    with Session.open() as session:
        taken = excerpt.take(session.catalogue, session.catalogue.volume(name).id)
    seen = tuple({**row, "seen_ns": 0} for row in taken.of("identifier"))
    return replace(taken, rows={**taken.rows, "identifier": seen})


def backup_on(recovery: str) -> dict[str, Any]:
    return dict(dmsnap("inspect", "label", recovery)["backup"])


def with_a_past(lab: Lab) -> Protected:
    """Points that went and why, one that lives and is to be kept, and one that was recovered."""
    volume = protected(lab, SIZE)
    for number in range(3):
        write_direct(volume.front, os.urandom(256 * 1024), (3 + number) * MIB)
        volume.sync()
    dmsnap("point", "delete", points_on(volume.name)[-1])
    dmsnap("point", "create", volume.name, "--keep")
    dmsnap("point", "keep", points_on(volume.name)[1])
    dmsnap("swap", volume.name, "--to", points_on(volume.name)[2])
    dmsnap("swap", "revert", volume.name)
    return volume


def rebuilt(expected: int = 0) -> dict[str, Any]:
    result = dmsnap("catalogue", "rebuild", expected=expected)
    (found,) = result["volumes"]
    return dict(found)


def test_what_comes_back_is_what_there_was(lab: Lab) -> None:
    """The catalogue before it was lost and after it was rebuilt, row for row."""
    volume = with_a_past(lab)
    before, points = dump(volume.name), points_on(volume.name)
    (deleted,) = [row["id"] for row in before.of("point") if row["deleted_ns"] is not None]
    past = dmsnap("point", "show", deleted)
    assert len(before.of("job")) >= 7
    lose_catalogue()
    found = rebuilt()
    assert found["notes"] == []
    assert found["backup_ns"] == backup_on(volume.recovery)["written_ns"]
    assert dump(volume.name) == before
    assert points_on(volume.name) == points
    assert dmsnap("point", "show", deleted) == past
    assert dmsnap("catalogue", "check")["problems"] == []
    (kept,) = [each for each in dmsnap("point", "list", volume.name) if each["keep"]][-1:]
    assert kept["places"][0]["kind"] == "live"
    # Nothing of tracking came back: what was written meanwhile is found all the same.
    write_direct(volume.front, os.urandom(MIB), 20 * MIB)
    result = volume.sync("--audit", "full")
    assert result["tracker"] == "compare"
    volume.check_equal()
    assert dmsnap("job", "list")[0]["id"] > max(row["id"] for row in before.of("job"))


def test_it_is_written_when_there_is_something_new(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    first = backup_on(volume.recovery)
    assert first["problem"] is None
    content = content_of(volume.recovery)
    for words in (("status",), ("point", "list"), ("catalogue", "check"), ("job", "list")):
        dmsnap(*words)
    for words in (("sync",), ("point", "create"), ("swap",), ("unprotect",)):
        dmsnap(*words, volume.name, "--dry-run")
    (again,) = dmsnap("catalogue", "backup", volume.name)
    assert (again["generation"], again["error"]) == (first["generation"], None)
    assert backup_on(volume.recovery) == first
    (live,) = dmsnap("point", "create", volume.name)
    second = backup_on(volume.recovery)
    assert second["generation"] == first["generation"] + 1
    assert content_of(volume.recovery) == content
    # In a trial, too, when our own devices lie on the recovery volume.
    volume.sync()
    dmsnap("swap", volume.name)
    third = backup_on(volume.recovery)
    assert third["generation"] > second["generation"]
    dmsnap("swap", "revert", volume.name)
    dmsnap("point", "delete", live["id"])
    fourth = backup_on(volume.recovery)
    assert fourth["generation"] > third["generation"]
    # By a boot it is not: that waits until what was cut off is resumed.
    lose_stack(lab)
    dmsnap("assemble", "--boot", volume.name)
    assert backup_on(volume.recovery) == fourth
    assert dmsnap("job", "resume", "--all") == []
    assert backup_on(volume.recovery)["generation"] == fourth["generation"] + 1


def test_what_cannot_be_written_fails_no_operation(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    before = backup_on(volume.recovery)
    run("blockdev", "--setro", volume.recovery)
    ended = forked("point", "create", volume.name)
    run("blockdev", "--setrw", volume.recovery)
    assert ended.code == 0, ended
    assert "is not backed up" in ended.stderr
    assert backup_on(volume.recovery) == before
    (result,) = dmsnap("catalogue", "backup")
    assert result["generation"] == before["generation"] + 1
    lose_catalogue()
    rebuilt()
    assert len(points_on(volume.name)) == 2


def spoil(recovery: str, slots: tuple[int, ...]) -> None:
    """A byte of each slot's content."""
    offset = backup_on(recovery)["offset_bytes"]
    with label_of(recovery) as (fd, _, _):
        for slot in slots:
            at = offset + slot * backup_area.SLOT_BYTES + 4096 + 5
            os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0x5A]), at)


def forge(recovery: str, content: bytes) -> None:
    """A backup that is whole, and says what it likes."""
    with label_of(recovery) as (fd, size_bytes, label):
        extent = backup_area.extent_of(label, size_bytes)
        assert extent is not None
        slot = backup_area.encode(label, content, generation=10**6, time_ns=5)
        os.pwrite(fd, slot, extent.offset_bytes)


HOSTILE = {
    "torn": "its checksum is wrong",
    "forged": "is not used",
    "no text": "is not used",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_not_believed_is_said_and_left(lab: Lab, kind: str) -> None:
    """The rebuild goes on without, and the next command writes a backup over it."""
    volume = with_a_past(lab)
    points = [each[:13] for each in points_on(volume.name)]
    if kind == "torn":
        spoil(volume.recovery, (0, 1))
    elif kind == "forged":
        text = excerpt.encode(dump(volume.name))
        forge(volume.recovery, text.replace(b'"point":{', b'"paint":{'))
    else:
        forge(volume.recovery, os.urandom(5000))
    lose_catalogue()
    found = rebuilt()
    assert any(HOSTILE[kind] in note for note in found["notes"]), found
    assert not any("\n" in note for note in found["notes"])
    assert [each[:13] for each in points_on(volume.name)] == points
    assert catalogue_rows("select count(*) from job") == [(0,)]
    volume.sync("--audit", "full")
    volume.check_equal()
    assert backup_on(volume.recovery)["problem"] is None


def test_one_slot_is_enough(lab: Lab) -> None:
    """The older one: what was recorded since is missing, and is seen where it can be."""
    volume = with_a_past(lab)
    newest = backup_on(volume.recovery)
    spoil(volume.recovery, (0,) if newest["generation"] % 2 else (1,))
    older = backup_on(volume.recovery)
    assert older["generation"] == newest["generation"] - 1
    lose_catalogue()
    assert rebuilt()["backup_ns"] == older["written_ns"]
    assert dmsnap("catalogue", "check")["problems"] == []
    volume.sync("--audit", "full")


def test_a_copy_of_another_volume_is_foreign(lab: Lab) -> None:
    one, other = with_a_past(lab), protected(lab, SIZE)
    offset = backup_on(one.recovery)["offset_bytes"]
    run("dd", f"if={one.recovery}", f"of={other.recovery}", "bs=4096", f"skip={offset // 4096}",
        f"seek={offset // 4096}", f"count={MIB // 4096}", "conv=notrunc,fsync")  # fmt: skip
    run("blockdev", "--flushbufs", other.recovery)
    assert "not of" in backup_on(other.recovery)["problem"]
    lose_catalogue()
    result = dmsnap("catalogue", "rebuild")
    (found,) = [each for each in result["volumes"] if each["volume"] == other.name]
    assert "is of volume" in found["notes"][0]
    assert len(points_on(other.name)) == 1


def test_a_recovery_volume_of_before(lab: Lab) -> None:
    """Its history went up to the label: it gives a mebibyte away, unless a store lies there."""
    volume = protected(lab, SIZE)
    whole = int(run("blockdev", "--getsize64", volume.recovery))
    length = labels.offset(whole) - SIZE
    write_label(volume.recovery, history_length_bytes=length)
    assert backup_on_or_none(volume.recovery) is None
    content = sha256(volume.front)
    write_direct(volume.front, os.urandom(MIB), 4 * MIB)
    volume.sync()
    assert backup_on(volume.recovery)["offset_bytes"] == labels.offset(whole) - MIB
    assert volume.label()["history_length_bytes"] == length - MIB
    assert len(volume.label()["history"]) == 1
    dmsnap("swap", volume.name, "--to", points_on(volume.name)[1])
    assert sha256(volume.front) == content
    dmsnap("swap", "revert", volume.name)


def backup_on_or_none(recovery: str) -> Any:
    return dmsnap("inspect", "label", recovery)["backup"]


def test_without_room(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=8 * MIB)
    assert backup_on_or_none(volume.recovery) is None
    volume.sync()
    (result,) = dmsnap("catalogue", "backup", expected=ExitCode.NO_SPACE)
    assert "no room for a backup" in result["error"]
    lose_catalogue()
    assert rebuilt()["backup_ns"] is None


@pytest.mark.parametrize("position", range(4))
def test_a_kill_at_any_moment_leaves_one(lab: Lab, position: int) -> None:
    volume = with_a_past(lab)
    before = backup_on(volume.recovery)
    steps = len(dmsnap("sync", volume.name, "--dry-run")["steps"])
    write_direct(volume.front, os.urandom(MIB), 9 * MIB)
    at = steps - 1 - position
    forked("sync", volume.name, at=(at, "begun"), send=(signal.SIGKILL,))
    assert backup_on(volume.recovery) == before
    lose_catalogue()
    rebuilt()
    volume.sync("--audit", "full")
    volume.check_equal()
    assert dmsnap("catalogue", "check")["problems"] == []


def test_recovery_by_the_label_knows_the_past(lab: Lab) -> None:
    """On a host that has nothing but the recovery volume."""
    volume = with_a_past(lab)
    before = dump(volume.name)
    held = [row["id"] for row in before.of("point") if row["deleted_ns"] is None]
    gone = {r["id"]: r["deleted_reason"] for r in before.of("point") if r["deleted_ns"]}
    lose_stack(lab)
    lose_state_directory()
    lose_boot_files(volume.name)
    run("rm", "-rf", lab.store())
    lose_disk(lab, volume.primary)
    dmsnap("swap", "--from-label", volume.recovery, "--store", lab.store())
    after = dump(volume.name)
    rows = {row["id"]: row for row in after.of("point")}
    assert set(rows) == set(held) | set(gone)
    for point_id, reason in gone.items():
        assert rows[point_id]["deleted_reason"] == reason
    # The live one was on the primary that is lost; the kept one of the history is kept.
    lost = [row for row in rows.values() if row["deleted_ns"] and row["id"] in held]
    assert len(lost) == 1
    assert "not found" in lost[0]["deleted_reason"]
    assert len(points_on(volume.name)) == len(held) - 1
    assert after.of("identifier") == before.of("identifier")
    assert dmsnap("catalogue", "check")["problems"] == []
    dmsnap("unprotect", volume.name)
    assert dm_devices() == []


# what is under way


def cut_off(volume: Protected, target: str) -> int:
    """Begin to move it, and die in the middle of copying. How far it was."""
    transfer, pieces = Copying._transfer, iter(range(3))

    def dying(copying: Copying, *arguments: Any, **options: Any) -> None:
        if next(pieces, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        transfer(copying, *arguments, **options)

    with (
        patch.object(hydration, "PIECE_BYTES", 4 * MIB),
        patch.object(Copying, "_transfer", dying),
    ):
        ended = forked("hydrate", volume.name, "--onto", target)
    assert ended.code == -signal.SIGKILL, ended
    return 3 * 4 * MIB


@pytest.mark.parametrize("booted", [False, True])
def test_a_move_that_was_under_way(lab: Lab, booted: bool) -> None:
    volume, target = protected(lab, 64 * MIB), lab.disk(64 * MIB)
    position = cut_off(volume, target)
    dmsnap("sync", volume.name)  # which backs up that it is under way
    assert dump(volume.name).volume["hydration"]["position_bytes"] == position
    if booted:
        lose_stack(lab)
    lose_catalogue()
    rebuilt()
    moved = dump(volume.name).volume["hydration"]
    assert (moved["target"], moved["position_bytes"]) == (target, position)
    if booted:
        dmsnap("assemble", volume.name)
    write_direct(volume.front, os.urandom(MIB), MIB)
    content = sha256(volume.front)
    result = dmsnap("hydrate", volume.name)
    assert result["device"] == target
    assert result["bytes_compared"] == position
    assert sha256(target) == content == sha256(volume.front)


def test_a_move_that_no_backup_knows(lab: Lab) -> None:
    """What our own device holds is where it leads; given up, the target is free again."""
    volume, target = protected(lab, 64 * MIB), lab.disk(64 * MIB)
    cut_off(volume, target)
    spoil(volume.recovery, (0, 1))
    lose_catalogue()
    rebuilt()
    moved = dump(volume.name).volume["hydration"]
    assert (moved["target"], moved["position_bytes"]) == (target, 0)
    dmsnap("hydrate", volume.name, "--abandon")
    assert dump(volume.name).volume["hydration"] is None
    assert len(dm_devices()) == 2


@pytest.mark.parametrize("backed_up", [True, False])
def test_exports(published: Lab, backed_up: bool) -> None:
    """Initiators keep their disks; the LUNs are taken back by name afterwards."""
    volume, disk = protected(published, SIZE), published.disk(SIZE)
    volume.sync()
    exported = {
        what: dmsnap("export", what, *TO)["target"]
        for what in (volume.name, points_on(volume.name)[1], disk)
    }
    seen = initiator.login(dmsnap("export", "list")[0])
    before = dmsnap("export", "list")
    if not backed_up:
        spoil(volume.recovery, (0, 1))
    lose_catalogue()
    result = dmsnap("catalogue", "rebuild")
    assert sorted(result["exports"]) == sorted(exported.values())
    after = dmsnap("export", "list")
    key = "target"
    assert sorted(after, key=lambda e: e[key]) == sorted(before, key=lambda e: e[key])
    assert all(export["problem"] is None for export in after)
    dmsnap("point", "create", volume.name)
    assert sorted(targets()) == sorted(exported.values())
    assert sha256(seen) == sha256(volume.front)
    initiator.logout(before[0])
    for what in exported:
        dmsnap("unexport", what)
    assert dmsnap("export", "list") == []


def test_the_bytes_are_where_they_are_said_to_be(lab: Lab) -> None:
    """docs/FORMATS.md, read without any of our own code but the label's."""
    import hashlib
    import json
    import struct
    import zlib

    volume = protected(lab, SIZE)
    size_bytes = int(run("blockdev", "--getsize64", volume.recovery))
    offset = size_bytes // 4096 * 4096 - 8192 - MIB
    with open_shared(Path(volume.recovery), direct=False) as fd:
        slots = [os.pread(fd, MIB // 2, offset + n * MIB // 2) for n in range(2)]
    slot = max(slots, key=lambda each: struct.unpack_from("<Q", each, 48))
    assert slot[:8] == b"DMSNAPBK"
    length, whole = struct.unpack_from("<II", slot, 96)
    used = bytearray(slot[: -(-(4096 + length) // 4096) * 4096])
    used[16:48] = bytes(32)
    assert hashlib.sha256(used).digest() == slot[16:48]
    content = zlib.decompress(slot[4096 : 4096 + length])
    assert len(content) == whole
    assert json.loads(content)["tables"]["volume"]["rows"][0].count(volume.name) == 1
