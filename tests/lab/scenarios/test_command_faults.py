"""A disk that fails at one stage of a command, of those that test_stage_faults.py has not.

=================  =====================================  ==========================
command            stage                                  what fails
=================  =====================================  ==========================
resize             the label moves; the history gives     recovery volume's label,
                   way; the new part is cleared; the      its history, its new part
                   replica's size
resize             the stack gets its size                primary
swap --from-label  the claim; reading the history         recovery volume
sync --force       take-over                              recovery volume's label
point keep, set    the mark                               recovery volume's label
point copy         copying, comparing                     primary, the copy's device
point mount        mounting                               primary, recovery volume
export             showing a point of the history         recovery volume
unprotect          letting any host take it; --forget     recovery volume's label
=================  =====================================  ==========================

Whatever fails: the sentence names the disk, or what lies on it alone; nothing is suspended or left
over, and the front takes writes; no point is lost, and the older ones hold what they held; and once
the disk is well the command works.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lun_target
import pytest
from conftest import (
    MIB,
    Lab,
    dm_devices,
    dmsnap,
    label_on,
    make_file_system,
    rarely,
    refused,
    run,
    sha256,
    suspended,
    world,
)
from failing_stage import BAD, SIZE, Bed, before_first_call, check_refused, made_bed
from hosts import HERE, THERE, become
from lost_state import lose_boot_files, lose_stack, lose_state_directory
from raw_volume import KIB, Range

from dmsnap._native import copy, digest
from dmsnap._native import label as labels
from dmsnap.errors import ExitCode
from dmsnap.recovery import chain, growth, replica
from dmsnap.service.points import keeping
from dmsnap.service.points.browse import Browse
from dmsnap.service.resizing import enlargement, replica_growth
from dmsnap.service.swaps.from_label import LabelTrial

SMALLER = 8 * MIB  # what a volume has before it is resized
RESIZE = "resize NAME"
FROM_LABEL = "swap --from-label RECOVERY --store STORE"
TO = "--portal 127.0.0.1:3271 --initiator iqn.2026-01.org.example.lab:nobody"


@pytest.fixture
def bed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    become(monkeypatch, HERE)
    with made_bed(lab) as made:
        yield made


def part_of(bed: Bed, disk: str, part: str) -> Range:
    """Where on a disk it is to fail."""
    begin, length = bed.disks[disk].label_range
    return {
        "bad": BAD,
        "label": (begin, length),
        "second sector": (begin + labels.SECTOR_BYTES, labels.SECTOR_BYTES),
        "grown": (SMALLER, SIZE - SMALLER),
        "history": (SIZE, 4 * MIB),
    }[part]


# what there is when the command begins


def pointed(bed: Bed, _host: pytest.MonkeyPatch) -> None:
    """Two points in the history, and a live one."""
    bed.bring_to("protected")
    for name in ("OLDEST", "OLDER"):
        bed.known[name] = dmsnap("point", "list", bed.name)[-1]["id"]
        bed.known[f"content of {name}"] = bed.replica_content()
        dmsnap("sync", bed.name)
        bed.dirty()
    bed.known["NEWEST"] = dmsnap("point", "list", bed.name)[-1]["id"]
    bed.known["content of NEWEST"] = bed.replica_content()
    bed.known["content of LIVE"] = bed.content()
    (live,) = dmsnap("point", "create", bed.name)
    bed.known["LIVE"] = live["id"]
    bed.dirty()


def grown(bed: Bed, _host: pytest.MonkeyPatch) -> None:
    """Both disks became larger; the history begins where the larger replica is to be."""
    bed.primary.shrink(SMALLER)
    bed.recovery.shrink(24 * MIB)
    dmsnap(*bed.words("protect PRIMARY --name NAME --recovery RECOVERY --store STORE"))
    bed.known["OLDER"] = dmsnap("point", "list", bed.name)[-1]["id"]
    bed.known["content of OLDER"] = bed.replica_content(SMALLER)
    bed.write(MIB)
    dmsnap("sync", bed.name)
    bed.heal()


def lost(bed: Bed, host: pytest.MonkeyPatch) -> None:
    """Nothing is left but the disks."""
    pointed(bed, host)
    dmsnap("point", "delete", bed.known.pop("LIVE"))
    lose_stack(bed.lab)
    lose_state_directory()
    lose_boot_files(bed.name)
    run("rm", "-rf", bed.store)
    bed.lab.store()


def claimed(bed: Bed, host: pytest.MonkeyPatch) -> None:
    """By another host: this is another one now."""
    bed.bring_to("protected")
    become(host, THERE)


# how it is once the command was done


def resized(bed: Bed) -> None:
    assert sha256(bed.front, SMALLER) == bed.known["content"]
    assert int(run("blockdev", "--getsize64", bed.front)) == SIZE
    check_points(bed, SMALLER)


def recovered(bed: Bed) -> None:
    """Back from the trial, to the primary that is there still."""
    (status,) = dmsnap("status", bed.name, expected=None)
    (point,) = (name for name, word in bed.known.items() if word == status["trial_point"])
    assert bed.content() == bed.known[f"content of {point}"]
    dmsnap("swap", "revert", bed.name)
    assert bed.content() == bed.known["content"]
    check_points(bed)


def marked(bed: Bed) -> None:
    assert dmsnap("point", "show", bed.known["OLDER"])["keep"]
    check_points(bed)


def copied(bed: Bed) -> None:
    assert sha256(bed.third.loop, SIZE) == bed.known["content of LIVE"]
    check_points(bed)


def taken(bed: Bed) -> None:
    assert dmsnap("inspect", "label", bed.recovery.path)["host_uuid"] == str(THERE)


def check_points(bed: Bed, size: int = SIZE) -> None:
    """The older one is what it was, by a trial of it; none is said to be no point any more."""
    assert [each["invalid_reason"] for each in dmsnap("point", "list", bed.name)].count(None) >= 2
    dmsnap("swap", bed.name, "--to", bed.known["OLDER"])
    assert sha256(bed.front, size) == bed.known["content of OLDER"]
    dmsnap("swap", "revert", bed.name)


Prepare = Callable[[Bed, pytest.MonkeyPatch], None]
MOVE_LABEL = (grown, RESIZE, growth, "move_label", "recovery", "label", "error_writes")
MAKE_WAY = (grown, RESIZE, growth, "clear_way", "recovery")
CLEAR = (grown, RESIZE, growth, "clear", "recovery", "grown", "error_writes")
SIZE_REPLICA = (grown, RESIZE, replica_growth, "size_replica", "recovery", "label", "error_writes")
CLAIM = (lost, FROM_LABEL, LabelTrial, "_claim", "recovery", "label", "error_writes")
TO_OLDER = f"{FROM_LABEL} --to OLDER"
READ_HISTORY = (lost, TO_OLDER, chain, "require_recoverable", "recovery", "history", "error")
SHOW = (lost, TO_OLDER, chain, "build", "recovery", "history", "error")
TAKE_OVER = (claimed, "sync NAME --force", replica, "take_over")
KEEP = (pointed, "point keep OLDER", keeping, "mark_on_label", "recovery")
SET = (pointed, "point set OLDER --keep", keeping, "mark_on_label", "recovery")
COPY = (pointed, "point copy LIVE --onto THIRD")


@pytest.mark.parametrize(
    ("prepare", "command", "owner", "function", "disk", "part", "fault", "code", "named", "then"),
    [
        rarely(*MOVE_LABEL, ExitCode.OS, "RECOVERY", resized),
        rarely(*MAKE_WAY, "grown", "error", ExitCode.OS, "RECOVERY", resized),
        rarely(*MAKE_WAY, "label", "error_writes", ExitCode.FAILURE, "RECOVERY", resized),
        rarely(*CLEAR, ExitCode.FAILURE, "RECOVERY", resized),
        (*SIZE_REPLICA, ExitCode.FAILURE, "RECOVERY", resized),
        (*CLAIM, ExitCode.FAILURE, "RECOVERY", recovered),
        rarely(*READ_HISTORY, ExitCode.OS, "RECOVERY", recovered),
        rarely(*SHOW, ExitCode.OS, "RECOVERY", recovered),
        (*TAKE_OVER, "recovery", "label", "error_writes", ExitCode.OS, "RECOVERY", taken),
        rarely(*KEEP, "label", "error_writes", ExitCode.OS, "RECOVERY", marked),
        rarely(*KEEP, "second sector", "error_writes", ExitCode.OS, "RECOVERY", marked),
        (*SET, "label", "error_writes", ExitCode.OS, "RECOVERY", marked),
        (*COPY, copy, "apply", "third", "bad", "error_writes", ExitCode.FAILURE, "THIRD", copied),
        rarely(*COPY, copy, "apply", "primary", "bad", "error", ExitCode.OS, "-point-", copied),
        rarely(*COPY, digest, "compare", "third", "bad", "error", ExitCode.OS, "THIRD", copied),
    ],
)
def test_a_part_that_fails(
    bed: Bed,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Prepare,
    command: str,
    owner: Any,
    function: str,
    disk: str,
    part: str,
    fault: str,
    code: ExitCode,
    named: str,
    then: Callable[[Bed], None],
) -> None:
    """From the moment a stage of the command begins, and until it is over."""
    prepare(bed, monkeypatch)
    points = points_of(bed)
    fail = partial(bed.disks[disk].load, (part_of(bed, disk, part), fault))
    before_first_call(monkeypatch, owner, function, fail)
    sentence = check_refused(bed, code, command)
    assert bed.words(named)[0] in sentence, sentence
    assert points_of(bed) == points
    if bed.front.exists():
        bed.check_serves(7 * MIB)
    bed.known["content"] = bed.content()
    dmsnap(*bed.words(command))
    then(bed)
    bed.check_whole(bed.content())


def points_of(bed: Bed) -> list[tuple[str, str | None]]:
    """Those that are recorded, and why one is none any more."""
    if not any(each["volume"] == bed.name for each in dmsnap("status", expected=None)):
        return []
    return [(each["id"], each["invalid_reason"]) for each in dmsnap("point", "list", bed.name)]


@pytest.mark.exhaustive
def test_a_primary_that_fails_while_its_stack_grows(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is read or written for that."""
    grown(bed, monkeypatch)
    content = bed.content()
    before_first_call(
        monkeypatch, enlargement, "grow", partial(bed.primary.load, ((0, MIB), "error"))
    )
    dmsnap("resize", bed.name)
    bed.check_serves()
    bed.heal()
    assert sha256(bed.front, SMALLER) == content
    bed.check_whole(bed.content())


# points that are looked at


@pytest.mark.parametrize(
    ("point", "disk", "named"),
    [("LIVE", "primary", "browse"), rarely("OLDER", "recovery", "browse")],
)
def test_a_point_that_cannot_be_read_is_not_mounted(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, point: str, disk: str, named: str
) -> None:
    make_file_system(bed.primary.path)
    dmsnap(*bed.words("protect PRIMARY --name NAME --recovery RECOVERY --store STORE"))
    bed.known["OLDER"] = dmsnap("point", "list", bed.name)[-1]["id"]
    dmsnap("sync", bed.name)
    bed.known["LIVE"] = dmsnap("point", "create", bed.name)[0]["id"]
    points = points_of(bed)
    fail = partial(bed.disks[disk].load, ((0, MIB), "error"))
    before_first_call(monkeypatch, Browse, "_mount", fail)
    sentence = check_refused(bed, ExitCode.OS, f"point mount {point}")
    assert named in sentence, sentence
    assert points_of(bed) == points
    mounted = dmsnap("point", "mount", bed.known[point])
    assert (Path(mounted["mount_point"]) / "lost+found").is_dir()
    dmsnap("point", "umount", bed.known[point])
    dmsnap("point", "delete", bed.known["LIVE"])
    bed.check_whole(bed.content())


@pytest.mark.exhaustive
def test_a_point_of_a_history_that_cannot_be_read_is_not_exported(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    lun_target.load_modules()
    pointed(bed, monkeypatch)
    points = points_of(bed)
    fail = partial(bed.recovery.load, (part_of(bed, "recovery", "history"), "error"))
    before_first_call(monkeypatch, chain, "show", fail)
    sentence = check_refused(bed, ExitCode.OS, f"export OLDER {TO}")
    assert bed.recovery.path in sentence, sentence
    assert dmsnap("export", "list") == []
    assert points_of(bed) == points
    bed.check_serves()
    dmsnap(*bed.words(f"export OLDER {TO}"))
    dmsnap("unexport", bed.known["OLDER"])
    check_points(bed)
    bed.check_whole(bed.content())


# devices that may be anybody's


@pytest.mark.parametrize(
    ("state", "command"),
    [
        ("bare", "protect PRIMARY --name NAME --recovery THIRD --store STORE"),
        rarely("protected", "point copy LIVE --onto THIRD"),
        rarely("protected", "hydrate NAME --onto THIRD"),
        rarely("promoted", "attach NAME --recovery THIRD"),
    ],
)
def test_a_device_that_cannot_be_read_is_not_taken_for_empty(
    bed: Bed, state: str, command: str
) -> None:
    """Whose file system it holds is not seen; what is seen of it later is said, too."""
    bed.bring_to(state)
    if "LIVE" in command:
        bed.known["LIVE"] = dmsnap("point", "create", bed.name)[0]["id"]
    make_file_system(bed.third.path)
    foreign = sha256(bed.third.loop)
    bed.third.load(((0, 4 * KIB), "error"))
    before = world(bed.lab)
    sentence = refused(ExitCode.OS, *bed.words(command))
    assert bed.third.path in sentence
    assert world(bed.lab) == before
    bed.heal()
    assert sha256(bed.third.loop) == foreign
    assert "ext4" in refused(ExitCode.FOREIGN_DEVICE, *bed.words(command))
    assert sha256(bed.third.loop) == foreign


# unprotect


def test_a_label_that_cannot_be_wiped(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume's device is given back; what is left to do is done by who asks for it again."""
    pointed(bed, monkeypatch)
    unreadable = partial(bed.recovery.load, (bed.recovery.label_range, "error"))
    before_first_call(monkeypatch, replica, "label_of", unreadable)
    command = "unprotect NAME --forget"
    assert bed.recovery.path in check_refused(bed, ExitCode.OS, command)
    content = bed.content()
    fail = partial(bed.recovery.load, (bed.recovery.label_range, "error_writes"))
    before_first_call(monkeypatch, labels, "wipe", fail)
    sentence = refused(ExitCode.OS, *bed.words(command))
    assert bed.recovery.path in sentence
    assert (suspended(), dm_devices()) == ([], [])
    assert sha256(bed.primary.path) == content
    bed.heal()
    assert label_on(bed.recovery.path)["state"] == "consistent"
    assert sha256(bed.recovery.loop, SIZE) == bed.known["content of NEWEST"]
    dmsnap(*bed.words(command))
    assert dmsnap("status") == []
    assert list(Path(bed.store).iterdir()) == []
    refused(ExitCode.CORRUPT, "inspect", "label", bed.recovery.path)
    assert sha256(bed.primary.path) == content
    dmsnap(*bed.words("protect PRIMARY --name NAME --recovery RECOVERY --store STORE"))
    bed.check_whole(content)


@pytest.mark.exhaustive
def test_a_label_that_cannot_be_released(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume's device is given back all the same: the recovery volume may be what died."""
    pointed(bed, monkeypatch)
    content = bed.content()
    fail = partial(bed.recovery.load, (bed.recovery.label_range, "error_writes"))
    before_first_call(monkeypatch, replica, "release", fail)
    dmsnap("unprotect", bed.name)
    assert (suspended(), dm_devices()) == ([], [])
    assert sha256(bed.primary.path) == content
    bed.heal()
    found = dmsnap("inspect", "label", bed.recovery.path)
    assert (found["state"], found["host_uuid"]) == ("consistent", str(HERE))
    assert sha256(bed.recovery.loop, SIZE) == bed.known["content of NEWEST"]
    dmsnap(*bed.words("protect PRIMARY --name NAME --recovery RECOVERY --store STORE --overwrite"))
    bed.check_whole(content)
