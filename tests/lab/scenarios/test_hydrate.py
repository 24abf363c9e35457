"""Hydrate: a volume's data to another device, while it is written to."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from conftest import (
    HANGS_SECONDS,
    MIB,
    PATIENCE_SECONDS,
    Ended,
    Lab,
    catalogue_rows,
    checkered,
    dm_devices,
    dmsnap,
    dmsnap_process,
    dying,
    forked,
    label_on,
    rarely,
    refused,
    run,
    sha256,
    suspended,
    wait_until,
)
from faulty_disk import faulty_disk
from file_workload import CHECKERS, check_files, wait_for_files, workload
from hosts import HERE, THERE, become
from lost_state import write_label
from raw_volume import KIB, Protected, protected, write_direct
from test_failback import scribble
from test_interrupts import steps_of, wait_resumed
from test_locks import LOCKS, lock_wait

from dmsnap._native.label import AREA_BYTES
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ExitCode, UnreachableError
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.locks import volume_lock
from dmsnap.recovery import history
from dmsnap.service.hydrations import hydrate as moving
from dmsnap.service.hydrations import hydration
from dmsnap.service.hydrations.hydrate import HydrateRequest, HydrateResult
from dmsnap.service.hydrations.hydration import Copying
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission

SIZE = 32 * MIB
PIECE = 4 * MIB

# Writes pages of its own content to random places, one at a time, says when it has written some,
# and at the end tells the last content of each. What it was not told that it is written, may be or
# not.
WRITER = """
    import hashlib, json, mmap, os, random, sys
    front, size, stop, log = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    fd = os.open(front, os.O_RDWR | os.O_DIRECT)
    generator, written, page = random.Random(11), {}, mmap.mmap(-1, 4096)
    while not os.path.exists(stop):
        place = generator.randrange(size // 4096)
        page[:] = generator.randbytes(4096)
        os.pwritev(fd, [page], place * 4096)
        written[place] = hashlib.sha256(page[:]).hexdigest()
        if len(written) == 30:
            print(flush=True)
    json.dump(written, open(log, "w"))
"""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small volume is copied in several."""
    monkeypatch.setattr(hydration, "PIECE_BYTES", PIECE)


@contextmanager
def writer(lab: Lab, volume: Protected) -> Iterator[None]:
    """Direct writes without pause while the block runs; each of them is there afterwards.

    It has begun when the block does: on a busy machine Python's start takes longer than a move.
    """
    stop, log = (lab.directory / f"{name}-{uuid4().hex[:6]}" for name in ("stop", "log"))
    words = [str(volume.front), str(volume.size_bytes), str(stop), str(log)]
    argv = [sys.executable, "-c", textwrap.dedent(WRITER), *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"\n"
            yield
        finally:
            stop.touch()
            child.wait(timeout=HANGS_SECONDS)
    assert child.returncode == 0
    written = dict(json.loads(log.read_text()))
    assert len(written) > 20
    with volume.front.open("rb") as front:
        for place, digest in written.items():
            front.seek(int(place) * 4096)
            assert hashlib.sha256(front.read(4096)).hexdigest() == digest, place


def check_moved(volume: Protected, target: str, left: str, tracker: str = "era") -> None:
    """The front lies on the new device alone, tracking goes on, and the old one is free."""
    assert suspended() == []
    (status,) = dmsnap("status", volume.name, expected=None)
    assert (status["device"], status["hydration"]) == (target, None)
    # On a larger device the volume is as large as it was, and nobody made that larger.
    assert status["problems"] == []
    assert sha256(target, volume.size_bytes) == sha256(volume.front)
    below = run("dmsetup", "deps", "-o", "devname", origin(volume))
    assert target.removeprefix("/dev/") in below or "dm-" in below or "faulty" in below
    assert [name for name in dm_devices() if "hydrated" in name] == []
    with open(left, "rb+", opener=exclusively):
        pass
    scribble(volume, 3, 7)
    result = volume.sync("--audit", "full")
    assert result["tracker"] == tracker, result
    volume.check_equal()


def exclusively(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL)


def origin(volume: Protected) -> str:
    (name,) = [name for name in dm_devices() if f"{volume.name}-origin-" in name]
    return name


def test_it_moves_while_every_page_is_being_written(lab: Lab) -> None:
    volume, target = protected(lab, SIZE, history_bytes=3 * SIZE), lab.disk(SIZE + MIB)
    volume.sync()
    with writer(lab, volume):
        result = dmsnap("hydrate", volume.name, "--onto", target)
    assert (result["device"], result["left_behind"]) == (target, volume.primary)
    assert result["resumed_at_bytes"] == result["bytes_compared"] == 0
    assert result["bytes_copied"] >= SIZE
    assert result["passes"] >= 1
    assert 0 < result["held_seconds"] < 30
    check_moved(volume, target, volume.primary)
    dmsnap("swap", volume.name, "--trial")
    dmsnap("swap", "revert", volume.name)
    dmsnap("unprotect", volume.name, "--forget")
    assert dm_devices() == []
    assert list((lab.directory / "store").iterdir()) == []


def test_its_rate_is_held_and_it_says_how_far_it_is(lab: Lab) -> None:
    size, rate = 2 * PIECE, PIECE
    volume, target = protected(lab, size), lab.disk(size)
    told: list[tuple[int, int]] = []
    with Session.open() as session:
        result = moving.hydrate(
            session,
            volume.name,
            HydrateRequest(Path(target), bandwidth=rate),
            dry_run=False,
            progress=lambda done, total: told.append((done, total)),
        )
    assert isinstance(result, HydrateResult)
    # Two seconds' worth, but for the last of each piece, for which nobody waits.
    assert result.steps["copy"] > 1, result.steps
    assert {total for _, total in told} == {size}
    done = [each for each, _ in told]
    assert done == sorted(done)
    assert done[0] < PIECE
    assert len([each for each in done if 0 < each < size]) >= 4, done
    assert done[-1] == size
    check_moved(volume, target, volume.primary)


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs", rarely("ext4")])
def test_a_file_system_in_use_moves(lab: Lab, fs_type: str) -> None:
    primary, recovery, target = (lab.disk(size * MIB) for size in (512, 800, 512))
    mount_point = lab.mounted(primary, fs_type, "noatime")
    name = lab.protect(primary, recovery)
    with workload(lab, mount_point, name) as log:
        wait_for_files(log, 12)
        dmsnap("hydrate", name, "--onto", target, "--bandwidth", "400MiB")
        wait_for_files(log, 4)
    now = time.time_ns()
    # Of 60 files that are there it has synced every third, as chance had it of those deleted.
    assert check_files(mount_point, log, now, now) >= 8
    assert dmsnap("sync", name, "--audit", "full")["tracker"] == "era"
    run("umount", mount_point)
    run(*CHECKERS[fs_type], f"/dev/mapper/{name}")  # that of btrfs wants its device for itself
    assert sha256(f"/dev/mapper/{name}") == sha256(target)
    run("mount", f"/dev/mapper/{name}", mount_point)
    dmsnap("unprotect", name)
    assert run("findmnt", "-no", "SOURCE", mount_point).strip() == target


@pytest.fixture
def long_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume may be held for as long as a busy machine takes to do what happens meanwhile."""
    deadline(tmp_path, monkeypatch, 60_000)


def deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    path = tmp_path / "dmsnap.toml"
    path.write_text(f"window_deadline_ms = {milliseconds}\n")
    monkeypatch.setenv("DMSNAP_CONFIG", str(path))


def written_held(volume: Protected, content: bytes) -> "subprocess.Popen[bytes]":
    """A write of block 77 to a front whose origin is held: it is marked, and waits."""
    words = ["bs=64k", "count=1", "seek=77", "oflag=direct", "iflag=fullblock"]
    late = subprocess.Popen(
        ["dd", f"of={volume.front}", *words], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert late.stdin is not None
    late.stdin.write(content)
    late.stdin.close()
    number = volume.front.stat().st_rdev
    in_flight = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/inflight")
    wait_until("a write waits", lambda: int(in_flight.read_text().split()[1]))
    assert late.poll() is None
    return late


@pytest.mark.usefixtures("long_windows")
def test_what_is_written_while_it_is_held_waits_and_is_there(lab: Lab) -> None:
    """Marked by dm-era and not written to the old device any more."""
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    copy_held, content = Copying._copy_held, os.urandom(64 * KIB)
    writing: list[subprocess.Popen[bytes]] = []

    def meanwhile(copying: Copying, primary: Any) -> None:
        writing.append(written_held(volume, content))
        copy_held(copying, primary)
        assert writing[0].poll() is None

    with patch.object(Copying, "_copy_held", meanwhile):
        dmsnap("hydrate", volume.name, "--onto", target)
    assert writing[0].wait(PATIENCE_SECONDS) == 0
    with volume.front.open("rb") as front:
        front.seek(77 * 64 * KIB)
        assert front.read(64 * KIB) == content
    check_moved(volume, target, volume.primary)


def test_a_promoted_volume_moves_and_goes_back(lab: Lab) -> None:
    """It keeps its label, so that failback knows both sides' changes still."""
    volume = protected(lab, SIZE)
    least = history.needed_device_bytes(SIZE, AREA_BYTES)
    small, target = lab.disk(least - 512), lab.disk(SIZE + 64 * MIB)
    dmsnap("swap", volume.name, "--trial")
    scribble(volume, 5, 1)
    dmsnap("swap", "commit", volume.name)
    scribble(volume, 5, 2)
    refused(ExitCode.TOO_SMALL, "hydrate", volume.name, "--onto", small)
    with writer(lab, volume):
        dmsnap("hydrate", volume.name, "--onto", target)
    assert dmsnap("inspect", "label", target)["state"] == "primary"
    dmsnap("inspect", "label", volume.recovery, expected=int(ExitCode.CORRUPT))
    content = sha256(volume.front)
    result = dmsnap("failback", volume.name)
    assert (result["tracker"], result["recovery"]) == ("era", target)
    assert sha256(volume.front) == content == sha256(volume.primary)
    scribble(volume, 3, 3)
    assert volume.sync("--audit", "full")["tracker"] == "era"
    assert sha256(target, SIZE) == sha256(volume.front)


def test_a_device_that_fails_is_none_of_the_fronts_business(lab: Lab) -> None:
    volume = protected(lab, SIZE, history_bytes=3 * SIZE)
    with faulty_disk(lab, SIZE) as disk:
        disk.load(((5 * PIECE, MIB), "error"))
        with writer(lab, volume):
            sentence = refused(ExitCode.OS, "hydrate", volume.name, "--onto", disk.path)
        assert disk.path in sentence
        scribble(volume, 3, 1)
        (status,) = dmsnap("status", volume.name)
        assert status["device"] == volume.primary
        assert status["hydration"]["bytes_copied"] == 5 * PIECE
        assert volume.sync("--audit", "full")["tracker"] == "era"
        disk.load()
        result = dmsnap("hydrate", volume.name)
        # dm-error does not count what it fails, so that the counters differ: then it is compared.
        assert result["resumed_at_bytes"] + result["bytes_compared"] == 5 * PIECE
        check_moved(volume, status["hydration"]["device"], volume.primary)
        dmsnap("unprotect", volume.name)


@pytest.mark.usefixtures("long_windows")
def test_a_device_that_fails_at_the_last_moment(lab: Lab) -> None:
    """The volume is held: it is let go over the old device, with nothing lost."""
    volume, copy_held = protected(lab, SIZE), Copying._copy_held
    writing: list[subprocess.Popen[bytes]] = []
    with faulty_disk(lab, SIZE) as disk:

        def fail(copying: Copying, primary: Any) -> None:
            disk.load(((0, SIZE), "error"))
            writing.append(written_held(volume, os.urandom(64 * KIB)))
            copy_held(copying, primary)

        with patch.object(Copying, "_copy_held", fail):
            refused(ExitCode.OS, "hydrate", volume.name, "--onto", disk.path)
        assert suspended() == []
        assert writing[0].wait(PATIENCE_SECONDS) == 0
        scribble(volume, 3, 1)
        assert dmsnap("status", volume.name)[0]["device"] == volume.primary
        disk.load()
        dmsnap("hydrate", volume.name)
        check_moved(volume, disk.path, volume.primary)
        dmsnap("unprotect", volume.name)


def test_a_hold_that_takes_too_long_is_ended_by_the_watchdog(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    # The windows of the passes before have the same deadline.
    deadline(tmp_path, monkeypatch, 4_000)

    def held_too_long(copying: Copying, primary: Any) -> None:
        for _ in range(HANGS_SECONDS):
            time.sleep(1)
        raise AssertionError("the watchdog did not end it")

    with patch.object(Copying, "_copy_held", held_too_long):
        sentence = refused(ExitCode.DEADLINE, "hydrate", volume.name, "--onto", target)
    assert "resumed by its watchdog" in sentence
    assert dmsnap("status", volume.name)[0]["device"] == volume.primary
    dmsnap("hydrate", volume.name)
    check_moved(volume, target, volume.primary)


def test_killed_while_it_is_held_the_watchdog_lets_go(lab: Lab) -> None:
    volume, target = protected(lab, SIZE), lab.disk(SIZE)

    def die(_copying: Copying, _primary: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(Copying, "_copy_held", die):
        assert forked("hydrate", volume.name, "--onto", target).code == -signal.SIGKILL
    assert wait_resumed() == []
    scribble(volume, 3, 1)
    assert dmsnap("hydrate", volume.name)["bytes_compared"] == 0
    check_moved(volume, target, volume.primary)


def switched_only(do: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """Die at the update that records the switch."""

    def update(self: Catalogue, volume: Any) -> None:
        if volume.hydration is None and volume.left_behind:
            dying(do, before=before)(self, volume)
        do(self, volume)

    return update


@pytest.mark.parametrize("recorded", [rarely(True), False], ids=["recorded", "not-recorded"])
def test_killed_after_the_table_it_goes_on_over_the_new_device(lab: Lab, recorded: bool) -> None:
    """The watchdog sees to that, and the next command records it."""
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    update = switched_only(Catalogue.update_volume, before=not recorded)
    with patch.object(Catalogue, "update_volume", update):
        assert forked("hydrate", volume.name, "--onto", target).code == -signal.SIGKILL
    assert wait_resumed() == []
    scribble(volume, 3, 1)
    content = sha256(volume.front)
    dmsnap("sync", volume.name)
    (status,) = dmsnap("status", volume.name)
    assert status["device"] == target
    assert sha256(volume.front) == content
    check_moved(volume, target, volume.primary)


@pytest.mark.parametrize("killed", [rarely(False), True], ids=["told", "killed"])
def test_a_table_that_is_loaded_when_the_watchdog_had_resumed_is_dropped(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """What was held is on the old device by then, and so is what was written after that."""
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    deadline(tmp_path, monkeypatch, 4_000)
    load, held = dm.load, origin(volume)

    def loaded_late(name: str, *arguments: Any, **options: Any) -> None:
        if name != held:
            load(name, *arguments, **options)
            return
        # As when the ioctl takes so long: no signal's handler runs meanwhile.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMAX - 2})
        wait_until("the volume goes on", lambda: not suspended())
        scribble(volume, 3, 1)
        load(name, *arguments, **options)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1)  # the watchdog looks again, in half of that at most
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    with patch.object(dm, "load", loaded_late):
        ended = forked("hydrate", volume.name, "--onto", target)
    assert ended.code == (-signal.SIGKILL if killed else ExitCode.DEADLINE), ended
    content = sha256(volume.front)
    assert dmsnap("job", "resume", "--all") is not None
    assert sha256(volume.front) == content == sha256(volume.primary)
    assert dmsnap("status", volume.name)[0]["device"] == volume.primary
    dmsnap("hydrate", volume.name)
    check_moved(volume, target, volume.primary)


def recording(when: Callable[[], None]) -> Any:
    """A catalogue that does something before it records that the volume is on the new device."""
    update_volume = Catalogue.update_volume

    def update(self: Catalogue, volume: Any) -> None:
        if volume.hydration is None and volume.left_behind:
            when()
        update_volume(self, volume)

    return patch.object(Catalogue, "update_volume", update)


def test_a_catalogue_that_waits_for_the_volume_is_not_waited_for(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server's data lie on it, or its server does not answer: the watchdog has it go on."""
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    deadline(tmp_path, monkeypatch, 4_000)
    with recording(lambda: wait_until("the volume goes on", lambda: not suspended())):
        result = dmsnap("hydrate", volume.name, "--onto", target)
    assert result["held_seconds"] > 3
    check_moved(volume, target, volume.primary)


@pytest.mark.usefixtures("long_windows")
def test_a_catalogue_that_is_gone_has_no_say_in_where_the_volume_is(lab: Lab) -> None:
    volume, target = protected(lab, SIZE), lab.disk(SIZE)

    def lost() -> None:
        raise UnreachableError("the server of the catalogue is gone")

    with recording(lost):
        refused(ExitCode.UNREACHABLE, "hydrate", volume.name, "--onto", target)
    assert suspended() == []
    scribble(volume, 3, 1)
    content = sha256(volume.front)
    assert catalogue_rows("select 1 from volume where hydration is not null")
    # As a power failure: the record leads to the old device, and nothing lives that says otherwise.
    run("dmsetup", "remove", *dm_devices())
    dmsnap("assemble", volume.name)
    assert sha256(volume.front) == content == sha256(target)
    (status,) = dmsnap("status", volume.name, expected=None)
    assert (status["device"], status["hydration"]) == (target, None)
    volume.sync()
    check_moved(volume, target, volume.primary)


def test_killed_before_the_table_is_loaded(lab: Lab) -> None:
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    load = dm.load
    with (
        patch.object(dm, "load", dying(load, before=True)),
        patch.object(dm, "create", loading(load)),
    ):
        assert forked("hydrate", volume.name, "--onto", target).code == -signal.SIGKILL
    dmsnap("sync", volume.name)
    assert suspended() == []
    dmsnap("hydrate", volume.name)
    check_moved(volume, target, volume.primary)


def loading(load: Callable[..., Any]) -> Callable[..., Any]:
    """``dm.create`` with a load of its own."""
    create = dm.create

    def made(*arguments: Any, **options: Any) -> Any:
        with patch.object(dm, "load", load):
            return create(*arguments, **options)

    return made


def back_and_forth(lab: Lab) -> tuple[Protected, list[str]]:
    volume = protected(lab, SIZE)
    return volume, [volume.primary, lab.disk(SIZE)]


def move(volume: Protected, devices: list[str]) -> list[object]:
    """The command that moves it to the device that it is not on."""
    (status,) = dmsnap("status", volume.name)
    target = devices[1 - devices.index(status["device"])]
    return ["hydrate", volume.name, "--onto", target, "--overwrite"]


def settle(volume: Protected, devices: list[str], content: str, step: str) -> None:
    """What a command left that was ended at ``step``: the volume serves, and the move goes on."""
    assert dmsnap("sync", volume.name, "--audit", "full")["tracker"] == "era", step
    assert suspended() == [], step
    assert sha256(volume.front) == content, step
    (status,) = dmsnap("status", volume.name)
    if status["hydration"]:
        dmsnap("hydrate", volume.name)
        (status,) = dmsnap("status", volume.name)
    assert sha256(volume.front) == content == sha256(status["device"]), step
    assert status["problems"] == [], step
    assert [name for name in dm_devices() if "hydrated" in name] == [], step


@pytest.mark.exhaustive
def test_killed_at_every_step_it_goes_on(lab: Lab) -> None:
    volume, devices = back_and_forth(lab)
    count = steps_of(*move(volume, devices))
    assert count == 5
    for at in [*((position, "begun") for position in range(count)), (count - 1, "done")]:
        after = 0.01 * (at[0] % 3)
        scribble(volume, 2, at[0])
        content = sha256(volume.front)
        ended = forked(*move(volume, devices), at=at, send=(signal.SIGKILL,), after=after)
        assert ended.code in (0, -signal.SIGKILL), ended
        settle(volume, devices, content, f"killed {after} s after step {at}")


def test_killed_in_the_middle_it_copies_the_rest(lab: Lab) -> None:
    volume, target = protected(lab, SIZE, history_bytes=3 * SIZE), lab.disk(SIZE)
    transfer, count = Copying._transfer, 0

    def fourth(copying: Copying, *arguments: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        transfer(copying, *arguments, **options)

    with patch.object(Copying, "_transfer", fourth), writer(lab, volume):
        assert forked("hydrate", volume.name, "--onto", target).code == -signal.SIGKILL
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert "hydrate was cut off at copy" in status["problems"][0]
    assert status["hydration"] == {"device": target, "bytes_copied": 3 * PIECE}
    scribble(volume, 3, 1)
    result = dmsnap("hydrate", volume.name, "--onto", target)
    assert result["resumed_at_bytes"] == 3 * PIECE
    assert result["bytes_compared"] == 0
    check_moved(volume, target, volume.primary)


@pytest.mark.parametrize(
    ("number", "state"), [(signal.SIGTERM, "done"), rarely(signal.SIGINT, "begun")]
)
def test_interrupted_it_keeps_what_was_copied(lab: Lab, number: int, state: str) -> None:
    volume, devices = back_and_forth(lab)
    for position in range(5):
        content = sha256(volume.front)
        ended = forked(*move(volume, devices), at=(position, state), send=(number,))
        assert ended.code in (0, 128 + number), ended
        if ended.code:
            assert "goes on from there" in ended.stderr, ended
        settle(volume, devices, content, f"{ended}")


def test_a_move_is_given_up(lab: Lab) -> None:
    primary, recovery, target = (lab.disk(size * MIB) for size in (32, 60, 32))
    mount_point = lab.mounted(primary)
    (mount_point / "kept").write_bytes(os.urandom(MIB))
    name = lab.protect(primary, recovery)
    assert "was begun" in refused(ExitCode.WRONG_STATE, "hydrate", name)
    assert "was begun" in refused(ExitCode.WRONG_STATE, "hydrate", name, "--abandon")
    ended = forked("hydrate", name, "--onto", target, at=(2, "begun"), send=(signal.SIGTERM,))
    assert ended.code == 143, ended
    other = lab.disk(60 * MIB)
    sentence = refused(ExitCode.WRONG_STATE, "hydrate", name, "--onto", other)
    assert f"moved to {target} already" in sentence
    sentence = refused(
        ExitCode.ALREADY_PROTECTED, "protect", target, "--name", "other", "--recovery", other,
        "--store", lab.store(),
    )  # fmt: skip
    assert "being moved to" in sentence
    with pytest.raises(OSError, match="busy"), open(target, "rb", opener=exclusively):
        pass
    # Of whoever is at work on the device nothing is wiped between his checks and his record.
    locked = admission.device_lock(BlockDevice.probe(Path(target)))
    with lock_wait(0.1), volume_lock(LOCKS, locked, 0, command="dmsnap held for the test"):
        assert "held for the test" in refused(ExitCode.LOCKED, "hydrate", name, "--abandon")
        assert "ext4" in run("blkid", "-p", target)
    assert dmsnap("status", name, expected=None)[0]["hydration"] is not None
    dmsnap("hydrate", name, "--abandon")
    assert dmsnap("status", name)[0]["hydration"] is None
    assert run("wipefs", "-n", target) == ""
    assert [name for name in dm_devices() if "hydrated" in name] == []
    dmsnap("hydrate", name, "--onto", target)
    dmsnap("unprotect", name)


def test_what_cannot_be_the_volume_is_refused(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    small, used, coarse, good = (
        lab.disk(SIZE - 512), lab.disk(SIZE), lab.disk(SIZE, sector_bytes=4096), lab.disk(SIZE),
    )  # fmt: skip
    words = ["hydrate", volume.name, "--onto"]
    refused(ExitCode.TOO_SMALL, *words, small)
    refused(ExitCode.BLOCK_SIZE, *words, coarse)
    refused(ExitCode.FOREIGN_DEVICE, *words, volume.primary)
    refused(ExitCode.ALREADY_PROTECTED, *words, volume.recovery)
    refused(ExitCode.NOT_FOUND, *words, "/dev/nothing")
    lab.mounted(used)
    refused(ExitCode.BUSY, *words, used)
    run("umount", used)
    assert "ext4" in refused(ExitCode.FOREIGN_DEVICE, *words, used)
    (point,) = dmsnap("point", "create", volume.name)
    assert "live points" in refused(ExitCode.WRONG_STATE, *words, good)
    steps = dmsnap(*words, used, "--overwrite", "--drop-points", "--dry-run")["steps"]
    assert len(steps) == 6
    assert dmsnap("status", volume.name)[0]["hydration"] is None
    dmsnap(*words, used, "--overwrite", "--drop-points")
    assert point["id"] not in {row["id"] for row in dmsnap("point", "list", volume.name)}
    check_moved(volume, used, volume.primary)
    dmsnap("swap", volume.name, "--trial")
    assert "trial" in refused(ExitCode.WRONG_STATE, *words, good)
    dmsnap("swap", "revert", volume.name)


def test_writes_past_the_front_are_no_secret(lab: Lab) -> None:
    """No mark tells of them: the run that sees them ends, and the next one compares."""
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    catch_up = Copying.catch_up

    def beside(copying: Copying) -> None:
        catch_up(copying)
        write_direct(volume.primary, os.urandom(8 * KIB), 3 * MIB)

    with patch.object(Copying, "catch_up", beside):
        sentence = refused(ExitCode.WRONG_STATE, "hydrate", volume.name, "--onto", target)
    assert "written to past" in sentence
    assert suspended() == []
    result = dmsnap("hydrate", volume.name)
    assert result["bytes_compared"] == SIZE
    check_moved(volume, target, volume.primary, "compare")


def test_a_page_past_a_front_that_is_busy_is_no_secret(lab: Lab) -> None:
    """Written to the hidden origin, and as large as what waits in it while that is held."""
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    catch_up = Copying.catch_up

    def beside(copying: Copying) -> None:
        catch_up(copying)
        write_direct(f"/dev/mapper/{origin(volume)}", os.urandom(4 * KIB), 3 * MIB)

    with writer(lab, volume):
        with patch.object(Copying, "catch_up", beside):
            sentence = refused(ExitCode.WRONG_STATE, "hydrate", volume.name, "--onto", target)
        assert "written to past" in sentence
        assert suspended() == []
        result = dmsnap("hydrate", volume.name)
        assert result["bytes_compared"] == SIZE
    # The replica has not seen it yet.
    assert volume.sync("--audit", "full")["tracker"] == "compare"
    check_moved(volume, target, volume.primary)


def test_a_new_device_that_somebody_wrote_to_is_compared(lab: Lab) -> None:
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    ended: Ended = forked(
        "hydrate", volume.name, "--onto", target, at=(2, "begun"), send=(signal.SIGKILL,)
    )
    assert ended.code == -signal.SIGKILL
    write_direct(target, os.urandom(8 * KIB), 3 * MIB)
    result = dmsnap("hydrate", volume.name)
    assert result["bytes_compared"] == SIZE
    assert result["bytes_copied"] < 2 * MIB
    check_moved(volume, target, volume.primary)


def taken_by_another_host(lab: Lab, monkeypatch: pytest.MonkeyPatch, target: str) -> str:
    """As over a LUN: a host with a catalogue of its own makes the device the recovery volume of its
    volume. What is on it then.
    """
    theirs = lab.disk(int(run("blockdev", "--getsize64", target)))
    directory = lab.directory / "there"
    settings = lab.directory / "there.toml"
    settings.write_text(
        f'state_directory = "{directory}"\nrun_directory = "{directory}/run"\n'
        f'store = "{directory}/store"\n'
    )
    (directory / "store").mkdir(parents=True)
    with monkeypatch.context() as elsewhere:
        become(elsewhere, THERE)
        elsewhere.setenv("DMSNAP_CONFIG", str(settings))
        primary, name = lab.disk(SIZE), lab.name()
        words = ["--name", name, "--recovery", theirs, "--store", directory / "store"]
        dmsnap("protect", primary, *words)
        dmsnap("sync", name)
        dmsnap("unprotect", name)
        write_label(theirs, host_uuid=THERE, host="host-5678")
    run("dd", f"if={theirs}", f"of={target}", "bs=1M", "conv=fsync")
    run("blockdev", "--flushbufs", target)
    return sha256(target)


def formatted_by_somebody(lab: Lab, _monkeypatch: pytest.MonkeyPatch, target: str) -> str:
    made = lab.disk(32 * MIB)
    run("mkfs.ext4", "-q", "-F", made)
    run("dd", f"if={made}", f"of={target}", "bs=1M", "conv=fsync")
    run("blockdev", "--flushbufs", target)
    return sha256(target)


def partitioned_by_somebody(_lab: Lab, _monkeypatch: pytest.MonkeyPatch, target: str) -> str:
    """What has no UUID is not the volume's because that has none either."""
    table = bytes([0x80, 0, 2, 0, 0x83, 0, 8, 0]) + (2048).to_bytes(4, "little")
    write_direct(target, bytes(446) + table + (4096).to_bytes(4, "little") + bytes(48)
                 + b"\x55\xaa", 0)  # fmt: skip
    return sha256(target)


def a_copy_of_its_recovery_volume(lab: Lab, _monkeypatch: pytest.MonkeyPatch, target: str) -> str:
    """Label, id, lease and content are the volume's: it is a replica all the same."""
    (recovery,) = (row[0] for row in catalogue_rows("select recovery from volume"))
    assert label_on(recovery)["state"] == "consistent"
    run("dd", f"if={recovery}", f"of={target}", "bs=1M", "conv=fsync")
    run("blockdev", "--flushbufs", target)
    return sha256(target)


@pytest.mark.parametrize(
    ("taken", "booted"),
    checkered(
        (
            taken_by_another_host,
            formatted_by_somebody,
            partitioned_by_somebody,
            a_copy_of_its_recovery_volume,
        ),
        (True, False),
    ),
)
def test_a_new_device_that_somebody_took_meanwhile_is_theirs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, taken: Callable[..., str], booted: bool
) -> None:
    """--overwrite was for what was there when the move was begun."""
    become(monkeypatch, HERE)
    volume = protected(lab, 48 * MIB, filled=False, history_bytes=10 * MIB)
    write_direct(volume.front, os.urandom(MIB), 8 * MIB)
    target = lab.disk(60 * MIB)  # as large as the recovery volume
    run("mkfs.ext4", "-q", "-F", target)
    words = ["hydrate", volume.name, "--onto", target, "--overwrite"]
    ended = forked(*words, at=(1, "done"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL, ended
    if booted:
        run("dmsetup", "remove", *dm_devices())
        dmsnap("assemble", volume.name)
    content, on_target = sha256(volume.front), taken(lab, monkeypatch, target)
    for again in (words, words[:2], [*words[:2], "--overwrite"], [*words, "--dry-run"]):
        sentence = refused(ExitCode.FOREIGN_DEVICE, *again)
        assert target in sentence
    (job,) = (job for job in dmsnap("job", "list") if job["steps"] and job["at"] == "copy")
    refused(ExitCode.FOREIGN_DEVICE, "job", "resume", job["id"])
    assert sha256(target) == on_target
    (status,) = dmsnap("status", volume.name, expected=None)
    assert status["hydration"]["device"] == target
    # It is given up, and whose the device is by now is its owner's affair.
    dmsnap("hydrate", volume.name, "--abandon")
    assert sha256(target) == on_target
    assert dmsnap("status", volume.name)[0]["hydration"] is None
    # Whoever wants it all the same says so with what is there before their eyes.
    error = dmsnap(*words[:-1], expected=ExitCode.FOREIGN_DEVICE)
    assert "--overwrite" in error["hint"]
    dmsnap(*words)
    assert sha256(volume.front) == content
    check_moved(volume, target, volume.primary, "compare" if booted else "era")


@pytest.mark.parametrize("audit", ["sample", "full"])
def test_a_new_device_that_forgets_is_found_by_reading_it_back(lab: Lab, audit: str) -> None:
    """It acknowledges, and keeps nothing of a part: the volume stays where it is."""
    volume = protected(lab, SIZE, history_bytes=3 * SIZE)
    with faulty_disk(lab, SIZE) as disk:
        disk.load(((5 * PIECE, MIB), "drop_writes"))
        words = ["hydrate", volume.name, "--audit", audit]
        with writer(lab, volume):
            for again in ([*words, "--onto", disk.path], words):
                assert disk.path in refused(ExitCode.AUDIT_FAILED, *again)
        assert suspended() == []
        (status,) = dmsnap("status", volume.name)
        assert (status["device"], status["hydration"]["bytes_copied"]) == (volume.primary, 0)
        disk.load()
        with writer(lab, volume):
            result = dmsnap(*words)
        assert result["audit"]["kind"] == audit
        assert result["audit"]["bytes_compared"] >= SIZE
        check_moved(volume, disk.path, volume.primary)
        dmsnap("unprotect", volume.name)


def test_two_commands_at_once(lab: Lab) -> None:
    """The other one waits for the lock, or says who holds it; the front never does."""
    volume, target = protected(lab, SIZE), lab.disk(SIZE)
    moving = dmsnap_process("hydrate", volume.name, "--onto", target, "--bandwidth", "256KiB")
    copying = "select 1 from job_step where name = 'copy' and state = 'begun'"
    try:
        wait_until("it copies", lambda: catalogue_rows(copying))
        (status,) = dmsnap("status", volume.name)
        assert "hydrate" in status["running"]
        scribble(volume, 3, 1)
        moving.send_signal(signal.SIGINT)
        _, said = moving.communicate(timeout=HANGS_SECONDS)
    finally:
        moving.kill()
    assert moving.returncode == 130
    assert "what was copied is kept" in said
    dmsnap("hydrate", volume.name)
    check_moved(volume, target, volume.primary)
