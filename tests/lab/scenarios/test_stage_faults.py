"""A disk that fails at one stage of a command: dm-error and dm-flakey below each of a volume's.

``e``: all I/O of a part fails, ``w``: its writes do, ``d``: they are forgotten. Elsewhere: (s)
test_sync_faults.py, (u) test_store_faults.py, (h) test_hydrate.py, (p) test_swap.py.

====================  ===========  ===============  ==========  ====================
stage                 primary      recovery volume  new device  COW store, era
====================  ===========  ===============  ==========  ====================
protect, first copy   e            e w d            -           test_store_stages.py
protect, last label   -            w                -           -
point create          e w          -                -           (u)
sync                  e            d (s)            -           (u)
sync, audit           e            (s)              -           -
verify                e            e                -           test_store_stages.py
swap                  (p)          e                -           (u)
commit                (p)          w                -           test_store_stages.py
commit, live point    w            -                -           test_store_stages.py
revert                (p)          (p)              -           (u)
attach                -            e                e w d       test_store_stages.py
failback, copies      e w          e                -           test_store_stages.py
failback, last label  -            w                -           -
hydrate               e            e                (h)         test_store_stages.py
====================  ===========  ===============  ==========  ====================

After a commit the recovery volume is what serves. A disk that forgets what the kernel merges into
it, or what failback or hydrate copied, is the volume itself from then on: nothing holds it against
anything but an audit.

Whatever fails: the sentence says which device and where, or which layer; nothing is suspended or
left over; what users see is what it was, as the loop device below says; no replica is called a
point that is not; and once the disk is well the command works, and the replica is the volume.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, dmsnap, label_on, rarely, refused, run, suspended, world
from failing_stage import (
    BAD,
    Bed,
    before_first_call,
    check_merge_refused,
    check_refused,
    in_the_bad_part,
    made_bed,
)
from faulty_disk import faulty_disk

from dmsnap._native import copy, digest
from dmsnap.errors import ExitCode
from dmsnap.service.hydrations import hydration
from dmsnap.service.hydrations.hydration import Copying
from dmsnap.service.swaps import merging, trial
from dmsnap.service.swaps.failback import Failback
from dmsnap.service.swaps.promotion import Promotion
from dmsnap.service.volumes.first_copy import FirstCopy
from dmsnap.snapshot import live

PROTECT = "protect PRIMARY --name NAME --recovery RECOVERY --store STORE"
ATTACH = "attach NAME --recovery THIRD"
FAILBACK = "failback NAME"


@pytest.fixture
def bed(lab: Lab) -> Iterator[Bed]:
    with made_bed(lab) as made:
        yield made


@pytest.mark.parametrize(
    ("state", "command", "owner", "function", "disk", "fault", "named"),
    [
        ("bare", PROTECT, copy, "apply", "primary", "error", "-point-"),
        ("bare", PROTECT, copy, "apply", "recovery", "error", "RECOVERY"),
        ("protected", "sync NAME", copy, "compare", "primary", "error", "-point-"),
        ("protected", "sync NAME --audit full", digest, "compare", "primary", "error", "-point-"),
        ("protected", "verify NAME --full", digest, "compare", "primary", "error", "-point-"),
        ("protected", "verify NAME --full", digest, "compare", "recovery", "error", "RECOVERY"),
        ("promoted", ATTACH, copy, "apply", "recovery", "error", "-point-"),
        ("promoted", ATTACH, copy, "apply", "third", "error", "THIRD"),
        ("promoted", FAILBACK, copy, "compare", "recovery", "error", "RECOVERY"),
        ("promoted", FAILBACK, copy, "compare", "primary", "error", "PRIMARY"),
        ("promoted", FAILBACK, copy, "apply", "primary", "error_writes", "PRIMARY"),
    ],
)
def test_a_part_that_fails(
    bed: Bed,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    command: str,
    owner: Any,
    function: str,
    disk: str,
    fault: str,
    named: str,
) -> None:
    """From the moment a stage of the command begins."""
    bed.bring_to(state)
    content = bed.content()
    before_first_call(monkeypatch, owner, function, partial(bed.disks[disk].load, (BAD, fault)))
    sentence = check_refused(bed, ExitCode.OS, command)
    device, _, what = sentence.partition(": ")
    assert bed.words(named)[0] in device, sentence
    assert in_the_bad_part(what), sentence
    dmsnap(*bed.words(command))
    bed.check_judged(content)
    bed.check_whole(content)


@pytest.mark.parametrize(("state", "command"), [("bare", PROTECT), ("promoted", ATTACH)])
def test_a_new_recovery_volume_that_takes_no_more_writes(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, state: str, command: str
) -> None:
    """It cannot be flushed either, and so not be wiped for certain: that is said, too, and no part
    of a copy is left for all that.
    """
    bed.bring_to(state)
    disk = bed.recovery if state == "bare" else bed.third
    content, before = bed.content(), world(bed.lab)
    before_first_call(monkeypatch, copy, "apply", partial(disk.load, (BAD, "error_writes")))
    sentence = refused(ExitCode.FAILURE, *bed.words(command))
    assert disk.path in sentence
    assert "undoing it failed" in sentence
    assert suspended() == []
    bed.heal()
    assert world(bed.lab) == before
    assert bed.content() == content
    assert dmsnap("inspect", "label", disk.path, expected=None).get("state") != "consistent"
    dmsnap(*bed.words(command), "--overwrite")
    bed.check_judged(content)
    bed.check_whole(content)


# labels


@pytest.mark.parametrize(("state", "command"), [("bare", PROTECT), ("promoted", ATTACH)])
def test_the_last_label_of_a_first_copy(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, state: str, command: str
) -> None:
    """All was copied, and nothing says so: it is no replica."""
    bed.bring_to(state)
    disk = bed.recovery if state == "bare" else bed.third
    content, before = bed.content(), world(bed.lab)
    fail = partial(disk.load, (disk.label_range, "error_writes"))
    before_first_call(monkeypatch, FirstCopy, "_mark_consistent", fail)
    sentence = refused(ExitCode.FAILURE, *bed.words(command))
    assert disk.path in sentence
    assert "label" in sentence
    assert suspended() == []
    bed.heal()
    assert world(bed.lab) == before
    assert bed.content() == content
    assert label_on(disk.path)["state"] == "copying"
    dmsnap(*bed.words(command), "--overwrite")
    bed.check_whole(content)


def test_the_last_label_of_a_failback(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promoted volume cannot be marked as the replica: the front goes back to it."""
    bed.bring_to("promoted")
    content = bed.content()
    fail = partial(bed.recovery.load, (bed.recovery.label_range, "error_writes"))
    before_first_call(monkeypatch, Failback, "_label", fail)
    assert bed.recovery.path in check_refused(bed, ExitCode.OS, FAILBACK)
    assert label_on(bed.recovery.path)["state"] == "primary"
    bed.write(MIB)
    content = bed.content()
    dmsnap("failback", bed.name)
    bed.check_judged(content)
    bed.check_whole(content)


@pytest.mark.parametrize("function", ["_mark_merging", "_mark_primary"])
def test_a_label_that_a_commit_cannot_write(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """Nothing is undone of a commit: it serves, and the next one goes on."""
    bed.bring_to("trial")
    content = bed.content()
    fail = partial(bed.recovery.load, (bed.recovery.label_range, "error_writes"))
    before_first_call(monkeypatch, Promotion, function, fail)
    assert bed.recovery.path in refused(ExitCode.OS, "swap", "commit", bed.name)
    assert bed.content() == content
    bed.check_serves()
    content = bed.content()
    bed.heal()
    (status,) = dmsnap("status", bed.name, expected=ExitCode.UNHEALTHY)
    assert status["state"] == "committing"
    assert dmsnap("swap", "commit", bed.name)["state"] == "promoted"
    bed.check_judged(content)
    bed.check_whole(content)


# merges


@pytest.mark.parametrize("steps_back", [0, 1])
def test_the_recovery_volume_while_a_commit_merges_into_it(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, steps_back: int
) -> None:
    """Of the overlay, or of an undo store: what could not be written is in there still."""
    bed.bring_to("protected")
    first = dmsnap("sync", bed.name)["point"]
    bed.dirty()
    newest = dmsnap("sync", bed.name)["point"]
    dmsnap("swap", bed.name, "--to", first if steps_back else newest)
    bed.dirty()
    content = bed.content()
    monkeypatch.setattr(merging, "MERGE_SECONDS", 60.0)
    fail = partial(bed.recovery.load, (BAD, "error_writes"))
    before_first_call(monkeypatch, merging, "_exchange", fail)
    check_merge_refused(bed)
    assert label_on(bed.recovery.path)["state"] == "merging"
    assert dmsnap("swap", "commit", bed.name)["state"] == "promoted"
    bed.check_judged(content)
    bed.check_whole(content)


def test_the_primary_while_a_commit_goes_back_to_a_live_point(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point's COW store is merged into it: what could not be written is in there still."""
    bed.bring_to("protected")
    (point,) = dmsnap("point", "create", bed.name)
    bed.dirty()
    dmsnap("swap", bed.name, "--to", point["id"])
    bed.dirty()
    content = bed.content()
    monkeypatch.setattr(merging, "MERGE_SECONDS", 60.0)
    fail = partial(bed.primary.load, (BAD, "error_writes"))
    before_first_call(monkeypatch, merging, "_exchange", fail)
    check_merge_refused(bed)
    assert dmsnap("swap", "commit", bed.name)["state"] == "protected"
    bed.check_judged(content)
    bed.check_whole(content)


# moving


@pytest.mark.parametrize("stage", ["copied", "held"])
@pytest.mark.parametrize(("state", "disk"), [("protected", "primary"), ("promoted", "recovery")])
def test_a_device_that_fails_while_its_volume_moves_away(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, stage: str, state: str, disk: str
) -> None:
    """It goes on serving what it can, and the move from where it was."""
    bed.bring_to(state)
    monkeypatch.setattr(hydration, "PIECE_BYTES", 4 * MIB)

    def fail() -> None:
        if stage == "held":
            bed.dirty()
        bed.disks[disk].load((BAD, "error"))

    owner, function = {"copied": (copy, "apply"), "held": (Copying, "switch")}[stage]
    before_first_call(monkeypatch, owner, function, fail)
    sentence = refused(ExitCode.OS, "hydrate", bed.name, "--onto", bed.third.path)
    assert bed.disks[disk].path in sentence
    assert in_the_bad_part(sentence), sentence
    bed.check_serves()
    bed.heal()
    bed.dirty()
    content = bed.content()
    (status,) = dmsnap("status", bed.name, expected=None)
    assert status["hydration"]["bytes_copied"] == 4 * MIB if stage == "copied" else 12 * MIB
    assert bed.disk_at(status["device"]) is bed.disks[disk]
    bed.check_judged(content)
    dmsnap("hydrate", bed.name)
    bed.check_judged(content)
    bed.check_whole(content)


# disks that forget


@pytest.mark.parametrize(
    ("state", "command", "disk"),
    [
        ("bare", PROTECT, "recovery"),
        ("protected", "sync NAME", "recovery"),
        ("promoted", ATTACH, "third"),
    ],
)
def test_a_replica_whose_disk_forgot_what_it_was_given(
    bed: Bed, state: str, command: str, disk: str
) -> None:
    """Nobody is told by the disk; a verification finds it, and then no point is shown as good."""
    bed.bring_to(state)
    content = bed.content()
    bed.disks[disk].load((BAD, "drop_writes"))
    dmsnap(*bed.words(command))
    bed.heal()
    sentence = refused(ExitCode.AUDIT_FAILED, "verify", bed.name, "--full")
    assert bed.disks[disk].path in sentence
    dmsnap("status", bed.name, expected=ExitCode.UNHEALTHY)
    for point in dmsnap("point", "list", bed.name):
        assert "was found wrong" in point["invalid_reason"]
    assert "is not what it should be" in refused(ExitCode.POINT_INVALID, "swap", bed.name)
    assert dmsnap("sync", bed.name)["tracker"] == "compare"
    bed.check_whole(content)


# points, and file systems


def test_a_point_of_a_primary_that_fails(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a volume is read for a point: it is what the volume was, once that can be read."""
    bed.bring_to("protected")
    content = bed.content()
    before_first_call(monkeypatch, live, "take", partial(bed.primary.load, (BAD, "error")))
    (point,) = dmsnap("point", "create", bed.name)
    assert suspended() == []
    sentence = refused(ExitCode.OS, "sync", bed.name, "--from", point["id"])
    assert f"-point-{point['id'].replace('-', '')[:12]}" in sentence
    bed.heal()
    bed.dirty()
    now = bed.content()
    dmsnap("swap", bed.name, "--to", point["id"])
    assert bed.content() == content
    dmsnap("swap", "revert", bed.name)
    assert bed.content() == now
    bed.check_whole(now)


@pytest.mark.parametrize(
    ("which", "fault", "code"),
    [
        ("primary", "error", ExitCode.OS),
        rarely("recovery", "error", ExitCode.OS),
        ("recovery", "error_writes", ExitCode.FAILURE),
    ],
)
def test_a_file_system_on_a_disk_that_fails_while_it_is_protected(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, which: str, fault: str, code: ExitCode
) -> None:
    """It is mounted where it was, whole; and no twin of it is left that could be mounted."""
    size = 64 * MIB
    with faulty_disk(lab, size) as primary, faulty_disk(lab, 2 * size) as recovery:
        mount_point = lab.mounted(primary.path)
        (mount_point / "file").write_text("one")
        before = world(lab)
        words = ["protect", primary.path, "--name", lab.name(), "--recovery", recovery.path]
        words += ["--store", lab.store()]
        disk = {"primary": primary, "recovery": recovery}[which]
        fail = partial(disk.load, ((40 * MIB, MIB), fault))
        before_first_call(monkeypatch, copy, "apply", fail)
        with closing(lab):
            refused(code, *words)
            disk.load()
            assert world(lab) == before
            assert (mount_point / "file").read_text() == "one"
            assert run("blkid", "-p", "-s", "TYPE", recovery.path, expected=2) == ""
            dmsnap(*words, "--overwrite")
            (mount_point / "file").write_text("two")
            dmsnap("sync", lab.names[-1], "--audit", "full")
            run("umount", mount_point)
            for each in (primary, recovery):
                run("e2fsck", "-fn", each.loop)
            run("mount", f"/dev/mapper/{lab.names[-1]}", mount_point)
            assert (mount_point / "file").read_text() == "two"


@contextmanager
def closing(lab: Lab) -> Iterator[None]:
    """What lies on faulty disks goes before they do."""
    try:
        yield
    finally:
        lab.take_down()


def test_a_recovery_volume_that_fails_in_the_volumes_place(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be mounted is no trial: the volume is mounted again, as it was."""
    size = 64 * MIB
    with faulty_disk(lab, 2 * size) as recovery, closing(lab):
        primary = lab.disk(size)
        mount_point = lab.mounted(primary)
        (mount_point / "file").write_text("one")
        name = lab.protect(primary, recovery.path)
        (mount_point / "file").write_text("two")
        before = world(lab)
        fail = partial(recovery.load, ((0, MIB), "error"))
        before_first_call(monkeypatch, trial, "load_front", fail)
        refused(ExitCode.PROGRAM_FAILED, "swap", name)
        assert suspended() == []
        recovery.load()
        assert world(lab) == before
        assert (mount_point / "file").read_text() == "two"
        dmsnap("swap", name)
        assert (mount_point / "file").read_text() == "one"
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == "two"
        dmsnap("sync", name, "--audit", "full")
        run("umount", mount_point)
        for device in (primary, recovery.loop):
            run("e2fsck", "-fn", device)
        run("mount", f"/dev/mapper/{name}", mount_point)


def test_a_file_that_cannot_be_written_out_for_a_point(lab: Lab) -> None:
    """What users wrote is lost by their disk: it is said, and no point is taken of it."""
    size = 64 * MIB
    with faulty_disk(lab, size) as primary, closing(lab):
        mount_point = lab.mounted(primary.path, options="noatime")
        file = mount_point / "file"
        file.write_bytes(bytes(MIB))
        run("sync", "-f", mount_point)
        name = lab.protect(primary.path, lab.disk(2 * size))
        before = world(lab)
        primary.load((place_of(file), "error_writes"))
        overwrite(file)
        sentence = refused(ExitCode.OS, "point", "create", name)
        assert str(mount_point) in sentence
        assert suspended() == []
        primary.load()
        assert world(lab) == before
        overwrite(file)
        (point,) = dmsnap("point", "create", name)
        dmsnap("point", "delete", point["id"])
        assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
        run("umount", mount_point)
        run("e2fsck", "-fn", primary.loop)
        run("mount", f"/dev/mapper/{name}", mount_point)


def overwrite(file: Path) -> None:
    """In place, and left in memory."""
    with file.open("r+b") as opened:
        opened.write(b"x" * MIB)


def place_of(file: Path) -> tuple[int, int]:
    """Where the first extent of a file lies on its device."""
    row = run("filefrag", "-b512", "-v", file).splitlines()[3]
    start = int(row.split(":")[2].split("..")[0])
    return start * 512, 4096
