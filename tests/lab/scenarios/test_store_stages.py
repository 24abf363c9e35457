"""What lies in the store fails at the stages that test_store_faults.py has not: by stage and piece.

========================  ==================  =====================================
stage                     COW store           era metadata
========================  ==================  =====================================
protect, first copy       lost, unreadable    (made: test_store_faults.py)
verify                    lost, unreadable    while they are read
attach                    lost, unreadable    in the window
commit                    -                   while the overlay is merged
commit, live point        while it is merged  -
failback, copies          -                   in the window, while they are read
failback, front           -                   either side's
hydrate                   -                   in a window, while it is held
========================  ==================  =====================================

A failback or a move takes no point: there is no COW store that could fail. As there: the front is
not suspended, and serves; nothing is left over; no replica is a point that is not; and once the
disk is well the command works, and the replica is the volume.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, dmsnap, rarely, refused, sha256, suspended, world
from failing_stage import before_first_call
from faulty_disk import FaultyStore, faulty_store
from raw_volume import Protected, fill, protected, write_direct
from test_store_faults import COW, ERA, PAST, SIZE, STORE_SIZE, Scene

from dmsnap._native import copy, digest, window
from dmsnap.errors import ExitCode
from dmsnap.service.hydrations.hydration import Copying
from dmsnap.service.replicas.verify import Verification
from dmsnap.service.swaps import handover, merging, parting
from dmsnap.service.swaps.failback import Failback

RECOVERY_SIZE = 48 * MIB


@pytest.fixture
def store(lab: Lab) -> Iterator[FaultyStore]:
    with faulty_store(lab, STORE_SIZE) as made:
        yield made


def scene_of(lab: Lab, store: FaultyStore, *, promoted: bool = False) -> Scene:
    """A volume of which all but the newest is on the replica; or one that has none any more."""
    made = Scene(lab, store, protected(lab, SIZE, "--store", store.group))
    made.write(MIB)
    if promoted:
        made.volume.sync()
        made.write(2 * MIB)
        dmsnap("swap", made.volume.name)
        made.write(3 * MIB)
        dmsnap("swap", "commit", made.volume.name)
        made.write(4 * MIB)
    return made


def check_equal(name: str) -> None:
    """A replica is what the front shows, and so is the device below it; and it is tracked again."""
    (status,) = dmsnap("status", name)
    front = Path("/dev/mapper") / name
    volume = Protected(name, status["device"], status["replica"]["device"], SIZE)
    assert sha256(volume.primary, SIZE) == sha256(front)
    volume.check_equal()
    write_direct(front, b"x" * 65536, 5 * MIB)
    result = volume.sync("--audit", "full")
    assert (result["tracker"], result["bytes_dirty"]) == ("era", 65536)
    volume.check_equal()


# COW stores


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("protect", "unreadable"),
        ("verify", "lost"),
        ("attach", "lost"),
        ("attach", "unreadable"),
        rarely("protect", "lost"),
        rarely("verify", "unreadable"),
    ],
)
def test_the_cow_store_of_a_point_that_is_read(
    lab: Lab, store: FaultyStore, monkeypatch: pytest.MonkeyPatch, command: str, fault: str
) -> None:
    """Lost, as it could not take what was written; or what it took cannot be read."""
    if command == "protect":
        name, primary, recovery = lab.name(), lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
        fill(Path(primary), SIZE)
        words = [command, primary, "--name", name, "--recovery", recovery, "--store", store.group]
    else:
        name = scene_of(lab, store, promoted=command == "attach").volume.name
        words = [command, name]
        words += ["--recovery", lab.disk(RECOVERY_SIZE)] if command == "attach" else ["--full"]
    before = world(lab)
    front = Path("/dev/mapper") / name

    def fail() -> None:
        if fault == "unreadable":
            write_direct(front, b"y" * MIB, 7 * MIB)
        store.fail(COW)
        if fault == "lost":
            write_direct(front, b"y" * MIB, 7 * MIB)

    owner, function = (digest, "compare") if command == "verify" else (copy, "apply")
    before_first_call(monkeypatch, owner, function, fail)
    code = ExitCode.POINT_INVALID if fault == "lost" else ExitCode.OS
    sentence = refused(code, *words)
    assert ("COW store could not take" if fault == "lost" else "-point-") in sentence
    assert suspended() == []
    store.heal()
    assert world(lab) == before
    dmsnap(*words)
    dmsnap("sync", name, "--audit", "full")
    check_equal(name)


def test_the_cow_store_of_a_live_point_that_is_merged(
    lab: Lab, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives it up, and what is not merged is shown still once it can be read."""
    scene = scene_of(lab, store)
    name = scene.volume.name
    (point,) = dmsnap("point", "create", name)
    scene.write(2 * MIB, MIB)
    dmsnap("swap", name, "--to", point["id"])
    scene.write(3 * MIB, MIB)
    content = sha256(scene.volume.front)
    monkeypatch.setattr(merging, "MERGE_SECONDS", 60.0)
    before_first_call(monkeypatch, merging, "_exchange", partial(store.fail, COW))
    for _ in range(2):
        assert "Merge failed" in refused(ExitCode.POINT_INVALID, "swap", "commit", name)
        assert suspended() == []
    store.heal()
    assert sha256(scene.volume.front) == content
    assert dmsnap("swap", "commit", name)["state"] == "protected"
    assert sha256(scene.volume.front) == sha256(scene.volume.primary) == content
    scene.volume.sync("--audit", "full")
    check_equal(name)


# era metadata


def test_era_metadata_while_a_verification_reads_them(
    lab: Lab, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be verified; the front goes on past dm-era, which fails writes."""
    scene = scene_of(lab, store)
    name, before = scene.volume.name, scene.volume.label()
    before_first_call(monkeypatch, Verification, "_track", partial(store.fail, ERA))
    refused(ExitCode.STACK_CHANGED, "verify", name, "--full")
    scene.check_serves()
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert PAST in status["problems"][0]
    assert scene.volume.label() == before
    scene.check_tidy()
    scene.check_recovers(renewed=True)


@pytest.mark.parametrize("fault", [rarely("error"), "error_writes"])
def test_era_metadata_in_the_window_of_an_attach(
    lab: Lab, store: FaultyStore, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    scene = scene_of(lab, store, promoted=True)
    name, third = scene.volume.name, lab.disk(RECOVERY_SIZE)
    content = sha256(scene.volume.front)
    before_first_call(monkeypatch, window, "run", partial(store.fail, ERA, fault=fault))
    assert PAST in refused(ExitCode.STACK_CHANGED, "attach", name, "--recovery", third)
    assert sha256(scene.volume.front) == content
    scene.check_serves()
    store.heal()
    dmsnap("assemble", name)
    dmsnap("attach", name, "--recovery", third)
    check_equal(name)


def test_era_metadata_while_an_overlay_is_merged(
    lab: Lab, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge has no use for them: it comes to its end, and tracking begins anew later."""
    scene = scene_of(lab, store)
    name = scene.volume.name
    scene.volume.sync()
    dmsnap("swap", name)
    scene.write(3 * MIB, MIB)
    content = sha256(scene.volume.front)
    before_first_call(monkeypatch, merging, "_exchange", partial(store.fail, ERA))
    assert dmsnap("swap", "commit", name)["state"] == "promoted"
    assert suspended() == []
    assert sha256(scene.volume.front) == content
    store.heal()
    dmsnap("assemble", name)
    scene.check_serves()
    content = sha256(scene.volume.front)
    dmsnap("failback", name)
    assert sha256(scene.volume.front) == sha256(scene.volume.primary) == content
    check_equal(name)


@pytest.mark.parametrize(
    ("owner", "function", "fault", "code"),
    [
        (Failback, "_copy_parted", "error", ExitCode.STACK_CHANGED),
        (Failback, "_copy_since", "error_writes", ExitCode.STACK_CHANGED),
        rarely(Failback, "_load", "error", ExitCode.OS),
        (Failback, "_load", "error_writes", ExitCode.OS),
        (handover, "require_nothing_missed", "error", ExitCode.OS),
    ],
)
def test_era_metadata_during_a_failback(
    lab: Lab,
    store: FaultyStore,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    function: str,
    fault: str,
    code: ExitCode,
) -> None:
    """Of both sides, as they lie in one store: the promoted volume goes on serving."""
    scene = scene_of(lab, store, promoted=True)
    name = scene.volume.name
    content = sha256(scene.volume.front)
    before_first_call(monkeypatch, owner, function, partial(store.fail, ERA, fault=fault))
    refused(code, "failback", name)
    assert sha256(scene.volume.front) == content
    # Where the new dm-era cannot even be loaded the front was not touched, and nobody was told.
    untouched = (function, fault) == ("_load", "error")
    if untouched:
        store.heal()
    (status,) = dmsnap("status", name, expected=None)
    assert (status["state"], status["device"]) == ("promoted", scene.volume.recovery)
    scene.check_serves()
    content = sha256(scene.volume.front)
    assert sha256(scene.volume.recovery, SIZE) == content
    store.heal()
    dmsnap("assemble", name)
    tracker = dmsnap("failback", name)["tracker"]
    assert untouched or tracker == "compare"
    assert sha256(scene.volume.front) == content
    check_equal(name)


def test_the_former_primarys_era_metadata_when_a_failback_reads_them(
    lab: Lab, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are lost, and the way back is not: both sides are compared."""
    scene = scene_of(lab, store, promoted=True)
    name = scene.volume.name
    content = sha256(scene.volume.front)
    before_first_call(
        monkeypatch, parting, "written_to_former", partial(store.fail, ERA, generation=1)
    )
    before_first_call(monkeypatch, Failback, "_copy", store.heal)
    result = dmsnap("failback", name)
    assert result["tracker"] == "compare"
    assert "cannot be read" in result["reason"]
    assert sha256(scene.volume.front) == sha256(scene.volume.primary) == content
    check_equal(name)


@pytest.mark.parametrize(("owner", "function"), [(Copying, "catch_up"), (Copying, "_copy_held")])
def test_era_metadata_while_a_volume_moves(
    lab: Lab,
    store: FaultyStore,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    function: str,
) -> None:
    """What was written meanwhile is marked nowhere: it goes on over the old device."""
    scene, target = scene_of(lab, store), lab.disk(SIZE)
    name = scene.volume.name
    before_first_call(monkeypatch, owner, function, partial(store.fail, ERA))
    dmsnap("hydrate", name, "--onto", target, expected=None)
    assert suspended() == []
    (status,) = dmsnap("status", name, expected=ExitCode.UNHEALTHY)
    assert status["device"] == scene.volume.primary
    scene.check_serves()
    scene.write(6 * MIB, MIB)
    store.heal()
    dmsnap("sync", name)
    content = sha256(scene.volume.front)
    dmsnap("hydrate", name)
    assert sha256(scene.volume.front) == sha256(target, SIZE) == content
    dmsnap("sync", name)
    check_equal(name)
