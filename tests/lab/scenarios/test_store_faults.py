"""What lies in the store fails: COW stores, era metadata, overlays, at each stage of their use.

dm-error lies under a volume group, where one piece of it is, from a moment on. Whatever fails: the
front is not suspended; it serves, or fails I/O as its disk does; the replica is a point; nothing is
left over; and once the disk is well again the next sync brings the replica to the volume's content,
byte for byte.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, checkered, dm_devices, dmsnap, refused, run, sha256, suspended, world
from failing_stage import before_first_call
from faulty_disk import FaultyDisk, FaultyStore, faulty_disk, faulty_store
from raw_volume import KIB, Protected, fill, protected, write_direct

from dmsnap._native import window
from dmsnap._native.era import EraMetadata
from dmsnap.catalogue.model import AreaRole
from dmsnap.errors import ExitCode
from dmsnap.recovery import apply, removal
from dmsnap.service.replicas.synchronisation import Sync
from dmsnap.service.swaps import merging, trial
from dmsnap.service.volumes import assembly
from dmsnap.snapshot import live
from dmsnap.tracking import era

SIZE = 12 * MIB
STORE_SIZE = 96 * MIB
COW, ERA, OVERLAY = AreaRole.COW, AreaRole.ERA_METADATA, AreaRole.OVERLAY
PAST = "past dm-era"


@dataclass
class Scene:
    """A raw volume whose store fails when and where it is told to."""

    lab: Lab
    store: FaultyStore
    volume: Protected

    def write(self, offset: int, length: int = 64 * KIB) -> None:
        """Noise to the front."""
        write_direct(self.volume.front, os.urandom(length), offset)

    def check_serves(self, offset: int = 11 * MIB) -> None:
        """Nothing is suspended, and the front takes a write and gives it back."""
        assert suspended() == []
        data = os.urandom(4 * KIB)
        write_direct(self.volume.front, data, offset)
        with self.volume.front.open("rb", buffering=0) as front:
            assert os.pread(front.fileno(), len(data), offset) == data

    def check_tidy(self) -> None:
        """Front and origin, and of the store the era metadata alone."""
        assert len(dm_devices()) == 2
        (piece,) = self.store.pieces()
        assert "era-metadata" in piece

    def check_recovers(self, *, renewed: bool = False) -> None:
        """With its disk well again: equal at once; and tracked again, which is audited in full."""
        self.store.heal()
        self.write(3 * MIB + 512)
        result = self.volume.sync()
        assert result["tracker"] == ("compare" if renewed else "era")
        self.volume.check_equal()
        assert run("dmsetup", "table", self.volume.name).split()[2] == "era"
        self.write(5 * MIB)
        result = self.volume.sync("--audit", "full")
        assert (result["tracker"], result["bytes_dirty"]) == ("era", 64 * KIB)
        self.volume.check_equal()
        dmsnap("status", self.volume.name)
        self.check_tidy()


@pytest.fixture
def store(lab: Lab) -> Iterator[FaultyStore]:
    with faulty_store(lab, STORE_SIZE) as made:
        yield made


@pytest.fixture
def scene(lab: Lab, store: FaultyStore) -> Scene:
    made = Scene(lab, store, protected(lab, SIZE, "--store", store.group))
    made.write(MIB)
    return made


# COW stores


@pytest.mark.parametrize(
    ("stage", "owner", "function", "expected"),
    [
        ("prepared", live, "prepare", ExitCode.OS),
        ("in the window", live, "take", ExitCode.POINT_INVALID),
        ("read", apply, "write_undo", ExitCode.OS),
        ("copied", apply, "write_new", ExitCode.POINT_INVALID),
        ("removed", Sync, "_settle", ExitCode.OK),
    ],
)
def test_the_cow_store_of_a_sync(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    owner: Any,
    function: str,
    expected: ExitCode,
) -> None:
    """A point that lost anything is not copied; the front has nothing to do with it."""
    volume, before = scene.volume, scene.volume.label()
    content = volume.replica_sha256()

    def fail() -> None:
        if stage == "read":
            scene.write(MIB)  # what was there is in the COW store alone now, and cannot be read
        scene.store.fail(COW)
        if stage == "copied":
            scene.write(2 * MIB)

    before_first_call(monkeypatch, owner, function, fail)
    if stage == "in the window":
        before_first_call(monkeypatch, apply, "write_undo", partial(scene.write, 2 * MIB))
    result = volume.sync(expected=expected)
    scene.check_serves()
    if expected:
        assert result["error"]
        after = volume.label()
        assert (after["state"], after["point_uuid"]) == ("consistent", before["point_uuid"])
        assert after["history"] == before["history"]
        assert volume.replica_sha256() == content
    scene.check_tidy()
    scene.check_recovers()


def test_the_cow_store_of_a_live_point(scene: Scene) -> None:
    """The point is lost, and says so wherever it is asked for; writing goes on."""
    name = scene.volume.name
    (point,) = dmsnap("point", "create", name)
    scene.store.fail(COW)
    scene.check_serves()
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert any(point["id"] in problem for problem in status["problems"])
    (shown,) = [each for each in dmsnap("point", "list", name) if each["id"] == point["id"]]
    assert shown["places"] == []
    for words in (("point", "mount", point["id"]), ("swap", name, "--to", point["id"])):
        assert point["id"] in refused(ExitCode.POINT_INVALID, *words)
    dmsnap("point", "delete", point["id"])
    scene.check_serves()
    scene.check_recovers()


# era metadata


@pytest.mark.parametrize("fault", ["error", "error_writes"])
def test_era_metadata_that_cannot_be_made(
    lab: Lab, store: FaultyStore, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The volume is what it was before, mounted where it was."""
    primary, recovery = lab.disk(64 * MIB), lab.disk(128 * MIB)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    before = world(lab, recovery)
    before_first_call(monkeypatch, assembly, "build_front", partial(store.fail, ERA, fault=fault))
    words = ("--name", lab.name(), "--recovery", recovery, "--store", store.group)
    refused(ExitCode.OS, "protect", primary, *words)
    store.heal()
    assert world(lab, recovery) == before
    assert (mount_point / "file").read_text() == "one"


@pytest.mark.parametrize(
    ("command", "fault"), checkered(("sync", "point create"), ("error", "error_writes"))
)
def test_era_metadata_in_the_window(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, command: str, fault: str
) -> None:
    """dm-era refuses to be resumed: the front goes on past it, and is tracked anew later."""
    name, before = scene.volume.name, scene.volume.label()
    before_first_call(monkeypatch, window, "run", partial(scene.store.fail, ERA, fault=fault))
    assert PAST in refused(ExitCode.STACK_CHANGED, *command.split(), name)
    scene.check_serves()
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert PAST in status["problems"][0]
    # As long as the disk is bad nothing else comes of it.
    refused(ExitCode.OS, "sync", name)
    refused(ExitCode.OS, "assemble", name)
    scene.check_serves(10 * MIB)
    assert scene.volume.label() == before
    scene.check_tidy()
    scene.check_recovers(renewed=True)


def test_era_metadata_while_the_volume_is_written_to(scene: Scene) -> None:
    """dm-era fails what it cannot mark. Well again, it is not believed any more."""
    scene.store.fail(ERA)
    with pytest.raises(OSError, match="Errno 5"):
        scene.write(7 * MIB)
    scene.store.heal()
    (status,) = dmsnap("status", scene.volume.name, expected=ExitCode.UNHEALTHY)
    assert "64 KiB of writes" in status["problems"][0]
    with suppress(OSError):  # its metadata may be beyond repair
        scene.write(8 * MIB)
    result = scene.volume.sync()
    assert result["tracker"] == "compare"
    assert "could not mark" in result["reason"]
    scene.volume.check_equal()
    scene.check_recovers()


@pytest.mark.parametrize(("owner", "function"), [(era, "metadata_snapshot"), (EraMetadata, "open")])
def test_era_metadata_while_a_sync_reads_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str
) -> None:
    """Both sides are compared instead, and the front goes on past dm-era, which fails writes."""
    before_first_call(monkeypatch, owner, function, partial(scene.store.fail, ERA))
    result = scene.volume.sync()
    assert result["tracker"] == "compare"
    assert "marks cannot be read or trusted" in result["reason"]
    scene.volume.check_equal()
    scene.check_serves()
    scene.check_recovers(renewed=True)


def test_era_metadata_when_the_stack_is_built(scene: Scene) -> None:
    """As at a boot: the volume comes up, untracked, and is mounted from."""
    content = sha256(scene.volume.front)
    run("dmsetup", "remove", scene.volume.name)
    for device in dm_devices():
        run("dmsetup", "remove", device)
    scene.store.fail(ERA)
    dmsnap("assemble", scene.volume.name)
    assert sha256(scene.volume.front) == content
    scene.check_serves()
    refused(ExitCode.OS, "sync", scene.volume.name)
    scene.store.heal()
    dmsnap("assemble", scene.volume.name)
    assert run("dmsetup", "table", scene.volume.name).split()[2] == "era"
    scene.check_recovers(renewed=True)


# a trial


@pytest.mark.parametrize(
    ("function", "role", "fault"),
    [
        ("overlay_table", OVERLAY, "error"),
        ("make_metadata", ERA, "error"),
        ("load_front", ERA, "error"),
        ("load_front", ERA, "error_writes"),
    ],
)
def test_a_trial_that_cannot_be_made(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, function: str, role: AreaRole, fault: str
) -> None:
    """The front shows the primary, as before, whichever piece fails."""
    name, content = scene.volume.name, sha256(scene.volume.front)
    before_first_call(monkeypatch, trial, function, partial(scene.store.fail, role, fault=fault))
    refused(ExitCode.OS, "swap", name)
    assert suspended() == []
    assert sha256(scene.volume.front) == content
    assert dmsnap("status", name, expected=None)[0]["state"] == "protected"
    # The new dm-era was loaded and not resumed, and the former one refuses as well.
    passed = (function, fault) == ("load_front", "error_writes")
    if passed:
        scene.check_serves()
    scene.check_tidy()
    scene.check_recovers(renewed=passed)


def test_an_overlay_while_the_trial_is_used(scene: Scene) -> None:
    """What is written is lost, and said to be; the primary comes back."""
    name, content = scene.volume.name, sha256(scene.volume.front)
    dmsnap("swap", name)
    scene.write(0, MIB)
    scene.store.fail(OVERLAY)
    with pytest.raises(OSError, match="Errno 5"):
        scene.write(2 * MIB)
    assert suspended() == []
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert any("Invalid" in problem for problem in status["problems"])
    refused(ExitCode.POINT_INVALID, "swap", "commit", name)
    dmsnap("swap", "revert", name)
    assert sha256(scene.volume.front) == content
    scene.check_serves()
    scene.check_tidy()
    scene.check_recovers()


def test_the_former_era_metadata_when_a_trial_is_reverted(scene: Scene) -> None:
    """The way back does not hang on them."""
    name, content = scene.volume.name, sha256(scene.volume.front)
    dmsnap("swap", name)
    scene.write(0, MIB)
    scene.store.fail(ERA)
    dmsnap("swap", "revert", name)
    assert sha256(scene.volume.front) == content
    scene.check_serves()
    scene.check_tidy()
    scene.check_recovers(renewed=True)


@pytest.mark.parametrize("fault", ["error", "error_writes"])
def test_an_overlay_while_it_is_merged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The kernel gives the merge up, and what is not merged is shown still: nothing is lost.

    Where the store could not be read, the commit goes on when it can; where what it has could not
    be written, only after a restart.
    """
    name = scene.volume.name
    dmsnap("swap", name)
    scene.write(0, 3 * MIB)
    content = sha256(scene.volume.front)
    monkeypatch.setattr(merging, "MERGE_SECONDS", 60.0)
    before_first_call(
        monkeypatch, merging, "_exchange", partial(scene.store.fail, OVERLAY, fault=fault)
    )
    for _ in range(2):
        assert "Merge failed" in refused(ExitCode.POINT_INVALID, "swap", "commit", name)
        assert suspended() == []
    check_says_what_to_do(name, restart=fault == "error_writes")
    if fault == "error_writes":
        assert sha256(scene.volume.front) == content
    scene.store.heal()
    assert sha256(scene.volume.front) == content
    if fault == "error_writes":
        assert "Merge failed" in refused(ExitCode.POINT_INVALID, "swap", "commit", name)
        check_says_what_to_do(name, restart=True)
        read_stores_anew(scene.volume)
        assert sha256(scene.volume.front) == content
    assert dmsnap("swap", "commit", name)["state"] == "promoted"
    assert sha256(scene.volume.front) == scene.volume.replica_sha256() == content
    scene.check_serves()


def check_says_what_to_do(name: str, *, restart: bool) -> None:
    """What goes on when the disk is well again, and that alone."""
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert status["state"] == "committing"
    (said,) = [problem for problem in status["problems"] if "I/O error" in problem]
    assert ("a restart of this host" in said) is restart
    assert f"dmsnap swap commit {name}" in said
    assert not any("any " in problem for problem in status["problems"]), status
    assert said.endswith(dmsnap("swap", "commit", name, expected=None)["hint"])


def read_stores_anew(volume: Protected) -> None:
    """As a boot does, which finds no device."""
    for device in dm_devices():
        run("dmsetup", "remove", device)
    dmsnap("assemble", volume.name, "--boot")


# undo stores


@dataclass
class History:
    """A volume with four points, on a recovery volume that fails when it is told to."""

    volume: Protected
    disk: FaultyDisk
    points: list[str]
    contents: list[str]

    def fail(self, fault: str) -> None:
        end, _ = self.disk.label_range
        self.disk.load(((SIZE, end - SIZE), fault))

    def check_points(self, *numbers: int) -> None:
        """Each is what it was, shown in the volume's place."""
        for number in numbers:
            dmsnap("swap", self.volume.name, "--to", self.points[number])
            assert sha256(self.volume.front) == self.contents[number]
            dmsnap("swap", "revert", self.volume.name)


@pytest.fixture
def past(lab: Lab) -> Iterator[History]:
    with faulty_disk(lab, 32 * MIB) as disk:
        primary = lab.disk(SIZE)
        fill(Path(primary), SIZE)
        volume = Protected(lab.protect(primary, disk.path), primary, disk.path, SIZE)
        made = History(volume, disk, [], [])
        for number in range(4):
            write_direct(volume.front, os.urandom(MIB), (number + 1) * MIB // 2)
            made.points.append(volume.sync()["point"])
            made.contents.append(volume.check_equal())
        yield made
        disk.load()
        lab.take_down()


@pytest.mark.parametrize("stage", ["stores read", "store written", "label written"])
def test_undo_stores_while_they_are_merged(
    past: History, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Until the label says otherwise, the history is what it was."""
    before, content = past.volume.label(), past.volume.replica_sha256()
    fault = "error" if stage == "stores read" else "error_writes"
    fail = partial(past.fail, fault)
    function = "relabel" if stage == "label written" else "merged"
    if stage == "label written":
        fail = partial(past.disk.load, (past.disk.label_range, fault))
    before_first_call(monkeypatch, removal, function, fail)
    assert past.disk.path in refused(ExitCode.OS, "point", "delete", past.points[1])
    write_direct(past.volume.front, os.urandom(4 * KIB), 0)
    past.disk.load()
    assert past.volume.label() == before
    assert past.volume.replica_sha256() == content
    past.check_points(0, 1)
    dmsnap("point", "delete", past.points[1])
    past.check_points(0, 2)
    assert past.volume.sync("--audit", "full")["tracker"] == "era"
    past.volume.check_equal()


def test_an_undo_store_while_a_commit_merges_it(
    past: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps back for good: cut off by errors, and finished when there are none."""
    name = past.volume.name
    monkeypatch.setattr(merging, "MERGE_SECONDS", 60.0)
    dmsnap("swap", name, "--to", past.points[1])
    before_first_call(monkeypatch, merging, "_exchange", partial(past.fail, "error_writes"))
    assert "Merge failed" in refused(ExitCode.POINT_INVALID, "swap", "commit", name)
    assert suspended() == []
    check_says_what_to_do(name, restart=False)
    assert sha256(past.volume.front) == past.contents[1]
    past.disk.load()
    assert dmsnap("swap", "commit", name)["state"] == "promoted"
    assert sha256(past.volume.front) == past.volume.replica_sha256() == past.contents[1]
