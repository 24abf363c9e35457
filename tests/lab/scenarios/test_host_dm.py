"""dm devices on a real kernel, with and without udev."""

import asyncio
import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import wait_until
from patience import PATIENCE_SECONDS

from dmsnap.daemon import announcements
from dmsnap.errors import (
    BusyError,
    DeadlineError,
    DmsnapError,
    ForeignDeviceError,
    MissingTargetError,
    NotFoundError,
    WrongStateError,
)
from dmsnap.host import loop, udev
from dmsnap.host.blockdev import BlockDevice, open_exclusive
from dmsnap.host.dm import device, event
from dmsnap.host.dm import state as states
from dmsnap.host.dm.cookie import Cookie, UdevFlags
from dmsnap.host.dm.state import DmInfo
from dmsnap.host.dm.status import SnapshotState
from dmsnap.host.dm.target import (
    Era,
    Error,
    Linear,
    Mirror,
    Snapshot,
    SnapshotMerge,
    SnapshotOrigin,
    Table,
    TableLine,
    Target,
    Zero,
    single,
)
from dmsnap.host.sysfs import SYSFS
from dmsnap.units import KIB, MIB

SIZE = 16 * MIB
DAY_SECONDS = 86400.0
RULES = Path(__file__).parents[3] / "udev-rules" / "11-dmsnap.rules"
with_udev = pytest.mark.skipif(not udev.is_running(), reason="udev does not run in this guest")

Disks = Callable[..., BlockDevice]


def uuid(role: str = "test") -> str:
    return f"DMSNAP-{uuid4()}-{role}"


def semaphores() -> set[str]:
    lines = Path("/proc/sysvipc/sem").read_text().splitlines()[1:]
    return {line.split()[0] for line in lines}


@pytest.fixture(autouse=True, scope="module")
def rules() -> None:
    device.require_targets("era", "snapshot", "snapshot-merge", "snapshot-origin", "mirror", "zero")
    if udev.is_running():
        directory = Path("/run/udev/rules.d")
        directory.mkdir(exist_ok=True)
        shutil.copy(RULES, directory)
        subprocess.run(["udevadm", "control", "--reload"], check=True)


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """Loop devices over files in /scratch; all dm devices of the test are removed before them."""
    before = semaphores()
    made: list[tuple[Path, Path]] = []

    def make(size_bytes: int = SIZE) -> BlockDevice:
        file = Path("/scratch", f"{uuid4()}")
        loop.create_backing_file(file, size_bytes)
        attached = loop.attach(file)
        made.append((attached.path, file))
        return attached

    yield make
    for state in reversed(device.list_devices()):
        device.resume(state.name)
        device.remove(state.name)
    for path, file in made:
        loop.detach(path)
        file.unlink()
    assert device.list_devices() == []
    # What udev runs has some of its own for a moment.
    wait_until("no semaphore is left", lambda: semaphores() <= before)


def write(path: Path, offset_bytes: int, content: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(offset_bytes)
        file.write(content)
        os.fsync(file.fileno())


def read(path: Path, offset_bytes: int, length_bytes: int) -> bytes:
    subprocess.run(["blockdev", "--flushbufs", path], check=True)
    with path.open("rb", buffering=0) as file:
        file.seek(offset_bytes)
        return file.read(length_bytes)


def test_create_and_remove(disk: Disks) -> None:
    below = disk()
    table = single(SIZE, Linear(below.devno))
    state = device.create("t-linear", uuid(), table)
    assert state.live_table
    assert not state.suspended
    assert not state.inactive_table
    assert not state.read_only
    assert device.node("t-linear").is_block_device()
    assert BlockDevice.probe(device.node("t-linear")).size_bytes == SIZE
    assert device.path_by_devno(state.devno) == Path("/dev/mapper/t-linear")
    assert device.info(uuid=state.uuid) == state
    assert device.deps("t-linear") == [below.devno]
    assert [found.name for found in device.list_devices()] == ["t-linear"]
    assert device.remove("t-linear")
    assert not device.remove("t-linear")
    assert device.info("t-linear") is None
    assert not device.node("t-linear").exists()


@pytest.mark.parametrize("kind", ["linear", "era", "origin", "PO", "P", "N", "mirror", "two"])
def test_live_table_equals_what_was_loaded(disk: Disks, kind: str) -> None:
    one, two = disk(), disk()
    targets: dict[str, Target] = {
        "linear": Linear(one.devno, 1 * MIB),
        "era": Era(two.devno, one.devno, 64 * KIB),
        "origin": SnapshotOrigin(one.devno),
        "PO": Snapshot(one.devno, two.devno, 4 * KIB),
        "P": Snapshot(one.devno, two.devno, 64 * KIB, overflow=False),
        "N": Snapshot(one.devno, two.devno, 16 * KIB, persistent=False),
        "mirror": Mirror((Linear(one.devno), Linear(two.devno)), in_sync=True),
    }
    table: Table = (TableLine(0, MIB, Zero()), TableLine(MIB, MIB, Error()))
    if kind in targets:
        table = single(8 * MIB, targets[kind])
    device.create("t-table", uuid(), table)
    assert device.table("t-table") == table


def test_a_taken_name_or_uuid_is_refused(disk: Disks) -> None:
    del disk
    first = device.create("t-first", uuid(), single(MIB, Zero()))
    with pytest.raises(BusyError, match="already"):
        device.create("t-first", uuid(), single(MIB, Zero()))
    with pytest.raises(BusyError, match="already"):
        device.create("t-second", first.uuid, single(MIB, Zero()))
    assert device.info("t-first") == first


def test_a_refused_table_leaves_nothing(disk: Disks) -> None:
    below = disk()
    with pytest.raises(DmsnapError, match=r"cannot load a table for t-bad: .*Invalid argument"):
        device.create("t-bad", uuid(), single(2 * SIZE, Linear(below.devno)))
    assert device.info("t-bad") is None
    assert not device.node("t-bad").exists()


def test_what_does_not_exist_is_a_sentence() -> None:
    for call in (device.table, device.status, device.suspend, device.resume, device.deps):
        with pytest.raises(NotFoundError, match="t-none"):
            call("t-none")


def test_missing_target() -> None:
    with pytest.raises(MissingTargetError, match="no dm target 'dmsnap-none'"):
        device.require_targets("linear", "dmsnap-none")
    assert device.targets()["linear"] >= (1, 0, 0)


def test_inactive_until_resumed(disk: Disks) -> None:
    below = disk()
    state = device.create_inactive("t-late", uuid(), single(SIZE, Linear(below.devno)))
    assert state.inactive_table
    assert not state.live_table
    assert device.table("t-late") == ()
    device.resume("t-late")
    assert device.existing("t-late").live_table
    assert device.node("t-late").is_block_device()


def test_read_only(disk: Disks) -> None:
    state = device.create("t-ro", uuid(), single(SIZE, Linear(disk().devno)), read_only=True)
    assert state.read_only
    assert BlockDevice.probe(device.node("t-ro")).read_only


DM_DEV_SUSPEND = 0xC138FD06
UEVENT_GENERATED = 1 << 13


def raw_resume(name: str, event_nr: int) -> bool:
    """The ioctl that the window does; whether the kernel sent a uevent."""
    layout = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
    request = bytearray(layout.size)
    layout.pack_into(
        request, 0, 4, 0, 0, 312, 312, 0, 0, 0, event_nr, 0, 0, name.encode(), b"", b""
    )
    with open("/dev/mapper/control", "rb+", buffering=0) as control:
        fcntl.ioctl(control, DM_DEV_SUSPEND, request)
    return bool(layout.unpack(request)[7] & UEVENT_GENERATED)


@pytest.mark.parametrize("flags", [UdevFlags.HIDDEN, UdevFlags.SHOWN])
def test_cookie_for_a_resume_done_elsewhere(disk: Disks, flags: UdevFlags) -> None:
    device.create_inactive("t-raw", uuid(), single(SIZE, Linear(disk().devno)))
    with Cookie() as cookie:
        numbers = [cookie.event_nr(flags), cookie.event_nr(flags)]
        assert len(set(numbers)) == 1
        assert bool(numbers[0]) is udev.is_running()
        if not raw_resume("t-raw", numbers[0]):
            cookie.complete_one()
        cookie.complete_one()  # the second resume is never done
        cookie.wait(60)
    device.make_nodes("t-raw")
    assert device.node("t-raw").is_block_device()


def test_suspended_resumes_after_an_error(disk: Disks) -> None:
    device.create("t-susp", uuid(), single(SIZE, Linear(disk().devno)))
    with pytest.raises(KeyError, match="True"), device.suspended("t-susp"):
        raise KeyError(device.existing("t-susp").suspended)
    assert not device.existing("t-susp").suspended


def test_a_suspended_era_is_not_asked(disk: Disks) -> None:
    data, metadata = disk(), disk()
    device.create("t-era", uuid(), single(SIZE, Era(metadata.devno, data.devno, 64 * KIB)))
    before = device.era_status("t-era").current_era
    with device.suspended("t-era"):
        started = time.monotonic()
        with pytest.raises(WrongStateError, match="t-era is suspended"):
            device.status("t-era")
        with pytest.raises(WrongStateError, match="t-era is suspended"):
            device.message("t-era", "checkpoint")
        assert time.monotonic() - started < 60
    assert device.era_status("t-era").current_era == before + 1
    assert device.era_status("t-era").metadata_snap is None
    device.message("t-era", "take_metadata_snap")
    assert device.era_status("t-era").metadata_snap is not None
    device.message("t-era", "drop_metadata_snap")


def test_a_message_that_is_not_understood(disk: Disks) -> None:
    data, metadata = disk(), disk()
    device.create("t-era", uuid(), single(SIZE, Era(metadata.devno, data.devno, 64 * KIB)))
    with pytest.raises(DmsnapError, match="cannot send a message to t-era"):
        device.message("t-era", "sing")


def test_status_of_another_target(disk: Disks) -> None:
    device.create("t-linear", uuid(), single(SIZE, Linear(disk().devno)))
    with pytest.raises(WrongStateError, match="should be one dm target era, it has linear"):
        device.era_status("t-linear")


def test_reload_changes_the_table_under_its_users(disk: Disks) -> None:
    one, two = disk(), disk()
    write(two.path, 0, b"second")
    device.create("t-load", uuid(), single(SIZE, Linear(one.devno)))
    with device.node("t-load").open("rb", buffering=0):
        device.reload("t-load", single(SIZE, Linear(two.devno)))
    assert read(device.node("t-load"), 0, 6) == b"second"


@pytest.mark.parametrize("step", ["load", "suspend", "resume"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_reload_that_fails_goes_on_with_the_old_table(
    disk: Disks, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    one, two = disk(), disk()
    old, new = single(SIZE, Linear(one.devno)), single(SIZE, Linear(two.devno))
    device.create("t-load", uuid(), old)
    real = getattr(device, step)

    def failing(*arguments: object, **keywords: object) -> None:
        monkeypatch.setattr(device, step, real)
        if moment == "after":
            real(*arguments, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(device, step, failing)
    with pytest.raises(KeyboardInterrupt):
        device.reload("t-load", new)
    state = device.existing("t-load")
    assert not state.suspended
    assert not state.inactive_table
    changed = (step, moment) == ("resume", "after")
    assert device.table("t-load") == (new if changed else old)


def test_reload_refused_by_the_kernel(disk: Disks) -> None:
    """That the table is longer than the device below is found by the resume (dm_swap_table)."""
    below = disk()
    table = single(SIZE, Linear(below.devno))
    device.create("t-load", uuid(), table)
    with pytest.raises(DmsnapError, match=r"cannot resume t-load: .*Invalid argument"):
        device.reload("t-load", single(2 * SIZE, Linear(below.devno)))
    assert not device.existing("t-load").suspended
    assert device.table("t-load") == table


def test_foreign_devices_are_not_removed() -> None:
    subprocess.run(
        ["dmsetup", "create", "t-foreign", "-u", "OTHER-1", "--table", "0 8 zero"], check=True
    )
    try:
        with pytest.raises(ForeignDeviceError, match="t-foreign is not dmsnap's"):
            device.remove("t-foreign")
        assert device.info("t-foreign") is not None
        assert device.list_devices() == []
        assert [state.name for state in device.list_devices("OTHER-")] == ["t-foreign"]
    finally:
        subprocess.run(["dmsetup", "remove", "--retry", "t-foreign"], check=True)


def test_of_other_devices_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may have hundreds; the kernel is asked for those of one volume alone."""
    uuids = [f"{device.UUID_PREFIX}{volume}-{role}" for volume in "ab" for role in ("x", "y")]
    for number, uuid in enumerate(uuids):
        device.create(f"t-{number}", uuid, single(MIB, Zero()))
    asked: list[str | None] = []
    info = states.info

    def counted(name: str | None = None, *, uuid: str | None = None) -> DmInfo | None:
        asked.append(name)
        return info(name, uuid=uuid)

    try:
        monkeypatch.setattr(states, "info", counted)
        found = device.list_devices(f"{device.UUID_PREFIX}b-")
        assert [each.name for each in found] == asked == ["t-2", "t-3"]
    finally:
        for number in range(len(uuids)):
            device.remove(f"t-{number}")


def test_a_uuid_that_is_not_ours_is_not_created() -> None:
    with pytest.raises(ValueError, match="does not begin with DMSNAP-"):
        device.create("t-other", "OTHER-2", single(MIB, Zero()))
    assert device.info("t-other") is None


def test_remove_of_a_device_in_use_names_the_user(disk: Disks) -> None:
    below = disk()
    device.create("t-below", uuid(), single(SIZE, Linear(below.devno)))
    device.create("t-above", uuid(), single(SIZE, Linear(device.existing("t-below").devno)))
    with pytest.raises(BusyError, match=r"t-below cannot be removed.*held by dm-\d+ \(t-above\)"):
        device.remove("t-below")
    with device.node("t-above").open("rb"), pytest.raises(BusyError, match=r"open in .*\(pid"):
        device.remove("t-above")
    exclusive = open_exclusive(below.path, write=True)
    with pytest.raises(BusyError, match=r"held by dm-\d+ \(t-below\)"), exclusive:
        pytest.fail("opened a device that is held")
    assert device.remove("t-above")
    assert device.remove("t-below")


def test_a_device_whose_users_nobody_sees_is_removed_when_they_let_go(disk: Disks) -> None:
    # As the kernel does some time after a command was killed that copied with io_uring: a
    # descriptor on its way through a socket is no process's, either.
    device.create("t-unseen", uuid(), single(SIZE, Linear(disk().devno)))
    sender, receiver = socket.socketpair()
    with sender, receiver:
        descriptor = os.open(device.node("t-unseen"), os.O_RDONLY)
        socket.send_fds(sender, [b"x"], [descriptor])
        os.close(descriptor)
        letting_go = threading.Timer(1, receiver.close)
        letting_go.start()
        try:
            assert device.remove("t-unseen")
        finally:
            letting_go.join()


def overflowing(disk: Disks) -> DmInfo:
    """A snapshot with a store of 1 MiB, and its origin, which can be written."""
    origin, cow = disk(), disk(MIB)
    device.create("t-origin", uuid(), single(SIZE, SnapshotOrigin(origin.devno)))
    snapshot = Snapshot(origin.devno, cow.devno, 4 * KIB)
    state = device.create("t-snap", uuid(), single(SIZE, snapshot))
    device.reload("t-origin", single(SIZE, SnapshotOrigin(origin.devno)))
    return state


def woken(name: str, event_nr: int) -> int:
    """The number of the device's next event, of which the wait is told: by itself it would end in a
    day, and then look, too.
    """
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(device.wait_event(name, event_nr, DAY_SECONDS)), daemon=True
    )
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert found, f"no event of {name} woke the wait for one"
    return found[0]


def test_wait_event(disk: Disks) -> None:
    """A store of 1 MiB overflows; the snapshot's failure is an event."""
    state = overflowing(disk)
    with pytest.raises(DeadlineError, match=r"t-snap had no event within 0\.3 s"):
        device.wait_event("t-snap", state.event_nr, 0.3)
    script = "sleep 0.3; dd if=/dev/zero of=/dev/mapper/t-origin bs=64k count=64 oflag=direct"
    writer = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
    assert woken("t-snap", state.event_nr) != state.event_nr
    assert writer.wait() == 0
    assert device.snapshot_status("t-snap").state is SnapshotState.INVALID


async def announced(happens: Callable[[], object]) -> tuple[bool, bool]:
    """Have the service woken by what happens, and by nothing before it.

    Returns whether that was an event of dm devices, and whether it was a uevent.
    """
    udev.settle()
    heard = asyncio.Event()
    with event.event_poll() as events:
        uevents = udev.uevents(announcements.SUBSYSTEMS)
        listening = asyncio.create_task(announcements.listen([heard]))
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(heard.wait(), 0.2)
            await asyncio.to_thread(happens)
            await asyncio.wait_for(heard.wait(), PATIENCE_SECONDS)
        finally:
            listening.cancel()
        of_dm, _, _ = select.select([events.descriptor], [], [], 0)
        return bool(of_dm), bool(uevents.drain())


def test_the_service_hears_of_a_snapshot_that_is_lost(disk: Disks) -> None:
    """By an event of device-mapper's alone: it is no uevent, and nobody looks."""
    overflowing(disk)
    # Open before and after: where udev runs, closing what was written to is a uevent.
    with device.node("t-origin").open("r+b", buffering=0) as origin:

        def lose() -> None:
            origin.write(bytes(4 * MIB))
            os.fsync(origin.fileno())

        assert asyncio.run(announced(lose)) == (True, False)
    assert device.snapshot_status("t-snap").state is SnapshotState.INVALID


def test_the_service_hears_of_a_disk_that_comes(disk: Disks) -> None:
    """By a uevent alone: the disk is none of device-mapper's, and nobody looks."""
    assert asyncio.run(announced(disk)) == (False, True)


def test_an_overflowing_overlay_stays_valid(disk: Disks) -> None:
    origin, cow = disk(), disk(MIB)
    device.create("t-over", uuid(), single(SIZE, Snapshot(origin.devno, cow.devno, 4 * KIB)))
    filled = subprocess.run(
        ["dd", "if=/dev/zero", "of=/dev/mapper/t-over", "bs=64k", "count=64", "oflag=direct"],
        check=False,
        stderr=subprocess.DEVNULL,
    )
    assert filled.returncode != 0
    assert device.snapshot_status("t-over").state is SnapshotState.OVERFLOW


def test_wait_merged(disk: Disks) -> None:
    origin, cow = disk(), disk()
    snapshot = Snapshot(origin.devno, cow.devno, 4 * KIB)
    name = uuid()
    device.create("t-snap", name, single(SIZE, snapshot))
    write(device.node("t-snap"), 4 * MIB, b"changed" * 1000)
    device.remove("t-snap")
    assert read(origin.path, 4 * MIB, 7) == bytes(7)
    merge = SnapshotMerge(origin.devno, cow.devno, 4 * KIB)
    device.create("t-merge", name, single(SIZE, merge))
    assert device.table("t-merge") == single(SIZE, merge)
    seen: list[object] = []
    device.wait_merged("t-merge", 120, seen.append)
    assert seen
    device.remove("t-merge")
    assert read(origin.path, 4 * MIB, 7000) == b"changed" * 1000


def test_a_mirror_gets_in_sync(disk: Disks) -> None:
    one, two = disk(), disk()
    write(one.path, 5 * MIB, b"mirrored")
    device.create("t-mirror", uuid(), single(SIZE, Mirror((Linear(one.devno), Linear(two.devno)))))
    while True:
        # Before the status: an event behind it is not missed.
        event_nr = device.existing("t-mirror").event_nr
        state = device.mirror_status("t-mirror")
        if state.in_sync:
            break
        woken("t-mirror", event_nr)
    assert state.legs == (one.devno, two.devno)
    assert read(two.path, 5 * MIB, 8) == b"mirrored"


def test_discards_can_be_turned_off(disk: Disks) -> None:
    state = device.create("t-linear", uuid(), single(SIZE, Linear(disk().devno)))
    assert SYSFS.discard_max_bytes(state.devno) > 0
    SYSFS.set_discard_max_bytes(state.devno, 0)
    assert SYSFS.discard_max_bytes(state.devno) == 0
    refused = subprocess.run(["blkdiscard", device.node("t-linear")], check=False)
    assert refused.returncode != 0


def by_uuid(name: str) -> Path:
    return Path("/dev/disk/by-uuid", name)


@pytest.fixture
def twins(disk: Disks) -> str:
    """t-front and t-twin over one ext4: the UUID of their file system."""
    below = disk(64 * MIB)
    file_system = str(uuid4())
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-U", file_system, below.path], check=True)
    table = single(64 * MIB, Linear(below.devno))
    device.create("t-front", uuid("front"), table)
    device.create("t-twin", uuid("point-1"), table)
    udev.settle()
    return file_system


@with_udev
def test_the_front_has_the_links_and_the_twin_has_none(twins: str) -> None:
    front = device.node("t-front").resolve()
    assert by_uuid(twins).resolve() == front
    assert Path("/dev/dmsnap/t-front").resolve() == front
    assert not Path("/dev/dmsnap/t-twin").exists()
    assert device.node("t-twin").is_block_device()
    assert "L: 100" in udev_record("t-front", "all")
    links = properties("t-twin")["DEVLINKS"].split()
    assert [link for link in links if link.startswith("/dev/disk/by-uuid")] == []


@with_udev
def test_a_trigger_shows_no_twin(twins: str) -> None:
    for action in ("change", "add"):
        subprocess.run(
            ["udevadm", "trigger", f"--action={action}", "--subsystem-match=block", "--settle"],
            check=True,
        )
        twin = properties("t-twin")
        assert "ID_FS_UUID" not in twin
        assert twin["SYSTEMD_READY"] == "0"
        assert twin["UDISKS_IGNORE"] == "1"
        assert by_uuid(twins).resolve() == device.node("t-front").resolve()
        assert properties("t-front").get("SYSTEMD_READY") != "0"


@with_udev
def test_the_front_keeps_its_links_through_a_reload(twins: str, disk: Disks) -> None:
    other = disk(64 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-U", twins, other.path], check=True)
    table = single(64 * MIB, Linear(other.devno))
    device.reload("t-front", table)
    udev.settle()
    assert by_uuid(twins).resolve() == device.node("t-front").resolve()


def properties(name: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in udev_record(name, "property"))


def udev_record(name: str, query: str) -> list[str]:
    """What ``udevadm info`` says of a dm device."""
    shown = subprocess.run(
        ["udevadm", "info", f"--query={query}", f"--name=/dev/mapper/{name}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return shown.stdout.splitlines()


def udevd() -> int:
    """Its main process, which is older than its workers."""
    return int(subprocess.check_output(["pgrep", "--oldest", "--exact", "systemd-udevd"]))


@with_udev
def test_udev_that_does_not_answer(disk: Disks) -> None:
    device.create("t-slow", uuid(), single(SIZE, Linear(disk().devno)))
    udev.settle()
    device.suspend("t-slow")
    before = semaphores()
    # Not by udevadm control --stop-exec-queue: udevd may not go on after --start-exec-queue.
    os.kill(udevd(), signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineError, match="did not handle device-mapper's events within 1 s"):
            device.resume("t-slow", deadline_seconds=1)
        assert not device.existing("t-slow").suspended
        assert semaphores() == before
    finally:
        os.kill(udevd(), signal.SIGCONT)
    udev.settle()


@with_udev
def test_udevs_probing_does_not_fail_a_removal(disk: Disks) -> None:
    below = disk()
    for _ in range(20):
        table = single(SIZE, Linear(below.devno))
        device.create("t-probed", uuid("front"), table)
        write(device.node("t-probed"), 0, b"x")  # closing it is a "watch" event
        assert device.remove("t-probed")
