"""The contract of snapshot providers: what each that is installed has to keep, tried on each.

A new one needs an Origin in snapshot_origin.py, and nothing here.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import MIB, Lab, dmsnap, forked, rarely, refused, run, sha256, suspended, world
from patience import until
from snapshot_origin import ORIGINS, PAGE, SIZE, Origin, direct, fill, pages, scribble

from dmsnap.errors import ForeignDeviceError, NoSpaceError, NotFoundError, PointInvalidError
from dmsnap.service.session import Session
from dmsnap.service.snapshots import providers
from dmsnap.service.snapshots.snapshot_provider import Provider, Snapshot

KILLED = -signal.SIGKILL


@pytest.fixture(params=ORIGINS)
def origin(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Origin]:
    made = ORIGINS[request.param](lab)
    try:
        yield made
    finally:
        made.close()


def test_each_that_is_installed_is_tried(lab: Lab) -> None:
    with Session.open() as session:
        assert set(providers.load(session)) == set(ORIGINS)


@contextmanager
def provider_of(origin: Origin) -> Iterator[Provider]:
    """The provider as it is installed, for one use of it."""
    with Session.open() as session:
        yield providers.named(session, origin.provider)


def take(origin: Origin, percent: int = 100) -> Snapshot:
    with provider_of(origin) as provider:
        taken = provider.take(origin.name, percent=percent)
    assert isinstance(taken, Snapshot)
    assert (taken.provider, taken.origin, taken.size_bytes) == (origin.provider, origin.name, SIZE)
    assert suspended() == []
    return taken


def remove(origin: Origin, snapshot: Snapshot) -> None:
    with provider_of(origin) as provider:
        assert provider.remove(snapshot) is None


def shown(origin: Origin, snapshot: Snapshot) -> list[bytes]:
    with (
        provider_of(origin) as provider,
        provider.held(snapshot),
        provider.shown(snapshot) as device,
    ):
        return pages(device)


def changed(origin: Origin, since: Snapshot, until: Snapshot | None = None) -> set[int]:
    """The pages that may differ."""
    with provider_of(origin) as provider, provider.held(since):
        extents = provider.changed(since, until)
    assert all(offset + length <= SIZE for offset, length in extents.pairs())
    return {
        page
        for offset, length in extents.pairs()
        for page in range(offset // PAGE, -(-(offset + length) // PAGE))
    }


def differing(first: list[bytes], second: list[bytes]) -> set[int]:
    return {page for page in range(SIZE // PAGE) if first[page] != second[page]}


def names(origin: Origin) -> list[str]:
    return [each["name"] for each in dmsnap("snapshot", "list", origin.name)]


def test_the_provider_for_an_origin_is_found(origin: Origin) -> None:
    with Session.open() as session:
        assert providers.serving(session, origin.name).name == origin.provider
        serving = [each.name for each in providers.load(session).values()
                   if each.serves(origin.name)]  # fmt: skip
    assert serving == [origin.provider]


def test_it_shows_the_moment_it_was_taken_at(origin: Origin) -> None:
    fill(origin.device, 1)
    moments = []
    for seed in (2, 3):
        scribble(origin.device, 30, seed)
        moments.append((take(origin), pages(origin.device)))
    scribble(origin.device, 60, 4)
    for snapshot, moment in moments:
        assert differing(shown(origin, snapshot), moment) == set()
    assert differing(pages(origin.device), moments[1][1])


def test_it_is_one_moment_of_a_volume_that_is_written_to(origin: Origin) -> None:
    """Write n comes after write n - 1 has ended: what is shown is a beginning of them all."""
    fill(origin.device, 1)
    count, over, ended = 64, threading.Event(), [0]

    def write() -> None:
        with direct(origin.device, os.O_WRONLY) as (descriptor, buffer):
            number = 0
            while not over.is_set():
                number += 1
                buffer[:8] = number.to_bytes(8, "little")
                with memoryview(buffer) as view:
                    os.pwrite(descriptor, view[:PAGE], number % count * 16 * PAGE)
                ended[0] = number

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: ended[0] >= 2 * count or not writer.is_alive(), "all was written twice")
        assert writer.is_alive()
        before = ended[0]
        snapshot = take(origin)
        after = ended[0]
        seen = shown(origin, snapshot)
    finally:
        over.set()
        writer.join()
    numbers = {at: int.from_bytes(seen[at * 16][:8], "little") for at in range(count)}
    last = max(numbers.values())
    assert before <= last <= after + 1
    assert numbers == {number % count: number for number in range(last - count + 1, last + 1)}


def test_no_byte_that_differs_is_missing(origin: Origin) -> None:
    fill(origin.device, 1)
    first = take(origin)
    scribble(origin.device, 20, 2)
    run("blkdiscard", "-o", 8 * MIB, "-l", MIB, origin.device, expected=None)
    second = take(origin)
    scribble(origin.device, 20, 3)
    one, two, now = shown(origin, first), shown(origin, second), pages(origin.device)
    for found, really in (
        (changed(origin, first, second), differing(one, two)),
        (changed(origin, second, first), differing(one, two)),
        (changed(origin, first), differing(one, now)),
        (changed(origin, second), differing(two, now)),
    ):
        assert really
        assert really <= found
        assert len(found) < SIZE // PAGE
    third = take(origin)
    assert changed(origin, third, take(origin)) == set()
    assert changed(origin, third) == set()


def test_nothing_is_left_of_one_that_was_removed(origin: Origin) -> None:
    fill(origin.device, 1)
    kept = take(origin)
    moment = pages(origin.device)
    before = world(origin.lab)
    snapshot = take(origin)
    assert sorted(names(origin)) == sorted([kept.name, snapshot.name])
    scribble(origin.device, 10, 2)
    now = sha256(origin.device)
    with provider_of(origin) as provider:
        assert provider.remove(snapshot, dry_run=True) is not None
    assert len(names(origin)) == 2
    shown(origin, snapshot)
    remove(origin, snapshot)
    assert world(origin.lab) == before
    assert names(origin) == [kept.name]
    assert sha256(origin.device) == now
    assert differing(shown(origin, kept), moment) == set()
    with provider_of(origin) as provider, pytest.raises(NotFoundError):
        provider.remove(snapshot)
    remove(origin, kept)
    assert names(origin) == []


def test_what_others_have_taken_is_not_touched(origin: Origin) -> None:
    fill(origin.device, 1)
    theirs, device = origin.foreign()
    content = sha256(device)
    ours = take(origin)
    assert names(origin) == [ours.name]
    scribble(origin.device, 10, 2)
    if origin.names_foreign():
        run("lvchange", "-qq", "--addtag", "dmsnap", theirs)
        with provider_of(origin) as provider, pytest.raises(ForeignDeviceError):
            provider.find(theirs)
        refused(8, "snapshot", "delete", theirs)
        refused(8, "point", "copy", theirs, "--onto", origin.lab.disk(SIZE))
        assert names(origin) == [ours.name]
    remove(origin, ours)
    assert sha256(device) == content
    refused(4, "snapshot", "delete", ours.name)


def test_a_store_that_is_full_is_an_error_of_its_own(origin: Origin) -> None:
    """Never other bytes than those of the moment."""
    fill(origin.device, 1)
    moment = pages(origin.device)
    snapshots = [take(origin, percent=1)]
    for seed in range(2, 6):
        try:
            fill(origin.device, seed)
        except OSError:
            assert not origin.lost_when_full  # the primary comes first
            break
        if origin.lost_when_full:
            break
        with provider_of(origin) as provider:
            try:
                provider.take(origin.name)
            except NoSpaceError:
                break
    (view,) = [each for each in dmsnap("snapshot", "list") if each["name"] == snapshots[0].name]
    if origin.lost_when_full:
        assert view["invalid_reason"]
        for asked in (shown, changed):
            with pytest.raises(PointInvalidError):
                asked(origin, snapshots[0])
        refused(14, "point", "copy", snapshots[0].name, "--onto", origin.lab.disk(SIZE))
    else:
        assert view["invalid_reason"] is None
        assert view["room"]["used_bytes"] == view["room"]["total_bytes"]
        assert differing(shown(origin, snapshots[0]), moment) == set()
        with provider_of(origin) as provider, pytest.raises(NoSpaceError):
            provider.take(origin.name)
    remove(origin, snapshots[0])
    assert suspended() == []


def test_the_room_it_takes_is_told(origin: Origin) -> None:
    fill(origin.device, 1)
    snapshot = take(origin)
    with provider_of(origin) as provider, provider.held(snapshot):
        before = provider.room(snapshot)
        scribble(origin.device, 20, 2)
        after = provider.room(snapshot)
    assert 0 <= before.used_bytes < after.used_bytes <= after.total_bytes == before.total_bytes


# full copies


class Mounted:
    """An origin with a file system that is in use, and a snapshot of it."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.mount_point = origin.lab.mounted(str(origin.device))
        (self.mount_point / "note").write_text("then")
        (self.mount_point / "bulk").write_bytes(os.urandom(5 * MIB))
        self.kept = sha256(self.mount_point / "bulk")
        self.snapshot = take(origin)
        (self.mount_point / "note").write_text("now")
        (self.mount_point / "bulk").write_bytes(os.urandom(6 * MIB))
        run("sync", "-f", self.mount_point)

    def require_copied(self, disk: str) -> None:
        """The copy is a file system of its own, with what was in it then."""
        run("e2fsck", "-fn", disk)
        mount_point = self.origin.lab.directory / "copy"
        mount_point.mkdir(exist_ok=True)
        run("mount", disk, mount_point)
        try:
            assert (mount_point / "note").read_text() == "then"
            assert sha256(mount_point / "bulk") == self.kept
            (mount_point / "more").write_bytes(os.urandom(MIB))
        finally:
            run("umount", mount_point)


def holds_nothing(disk: str) -> bool:
    return run("blkid", "-p", disk, expected=None) == ""


def test_a_full_copy(origin: Origin) -> None:
    mounted = Mounted(origin)
    before = world(origin.lab)
    disk = origin.lab.disk(2 * SIZE)
    run("mkfs.ext4", "-q", "-F", disk)
    refused(8, "point", "copy", mounted.snapshot.name, "--onto", disk)
    words = ("point", "copy", mounted.snapshot.name, "--onto", disk, "--overwrite")
    assert len(dmsnap(*words, "--dry-run")["steps"]) == 4
    result = dmsnap(*words)
    assert result["bytes_compared"] == result["bytes_volume"] == SIZE
    assert (result["fs_type"], result["origin"]) == ("ext4", origin.name)
    assert differing(pages(Path(disk)), shown(origin, mounted.snapshot)) == set()
    after = world(origin.lab)
    assert (after.dm_tables, after.logical_volumes, after.suspended, after.locks) == (
        before.dm_tables, before.logical_volumes, [], [],
    )  # fmt: skip
    mounted.require_copied(disk)
    assert (mounted.mount_point / "note").read_text() == "now"


def test_what_may_not_be_copied_onto(origin: Origin) -> None:
    mounted = Mounted(origin)
    lab, name = origin.lab, mounted.snapshot.name
    small, used, read_only = lab.disk(SIZE - 512), lab.disk(SIZE), lab.disk(SIZE)
    elsewhere = lab.mounted(used)
    run("blockdev", "--setro", read_only)
    before = world(lab, small, read_only)
    for exit_code, device in ((5, small), (6, used), (9, read_only), (4, lab.directory)):
        refused(exit_code, "point", "copy", name, "--onto", device, "--overwrite")
    run("blockdev", "--setrw", read_only)  # a loop device stays so, whatever is attached next
    refused(8, "point", "copy", name, "--onto", origin.device, "--overwrite")
    with (
        provider_of(origin) as provider,
        provider.held(mounted.snapshot),
        provider.shown(mounted.snapshot) as device,
    ):
        itself = device
    if itself.exists():
        refused(8, "point", "copy", name, "--onto", itself, "--overwrite")
    assert world(lab, small, read_only) == before
    assert os.path.ismount(elsewhere)


@pytest.mark.parametrize("number", [signal.SIGKILL, rarely(signal.SIGTERM)])
def test_a_copy_that_is_cut_off_shows_nothing(origin: Origin, number: int) -> None:
    """Or all of it, once its beginning was written."""
    mounted = Mounted(origin)
    disk = origin.lab.disk(SIZE)
    words = ("point", "copy", mounted.snapshot.name, "--onto", disk, "--overwrite")
    before = world(origin.lab)
    for position in range(4):
        for state, after in (
            (("begun", 0.02), ("done", 0)) if number == signal.SIGKILL else (("begun", 0.01),)
        ):
            others = processes()
            ended = forked(*words, at=(position, state), send=(number,), after=after)
            assert ended.code in (0, -number, 128 + number), ended
            dmsnap("job", "resume", "--all")
            wait_for_lvm(others)
            whole = not holds_nothing(disk)
            if whole:
                mounted.require_copied(disk)
                run("wipefs", "-qa", disk)
            assert whole or ended.code != 0
            if number == signal.SIGTERM and ended.code:
                assert not whole
            assert not [each for each in dmsnap("job", "list") if each["state"] == "cut off"]
            assert world(origin.lab) == before
    dmsnap(*words)
    mounted.require_copied(disk)


def wait_for_lvm(others: set[int]) -> None:
    """Until no LVM command runs any more that was not there before.

    Nor what is about to become one: until then it has the name of who began it, which is ours.
    """
    names = ("lvm", Path("/proc/self/comm").read_text().strip())
    until(lambda: not processes(*names) - others, "LVM is done")


def processes(*names: str) -> set[int]:
    """Those of some names, or all."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            is_dead = (path.parent / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not is_dead and (not names or path.read_text().strip() in names):
                found.add(int(path.parent.name))
    return found


@pytest.mark.parametrize("kind", ["lvm", "thin"])
def test_lvm_is_killed_never(lab: Lab, kind: str) -> None:
    """It suspends the origin: what is begun of it goes on when dmsnap is killed or interrupted."""
    origin = ORIGINS[kind](lab)
    fill(origin.device, 1)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for after in (0.05, 0.3):
            count = len(names(origin))
            others = processes()
            ended = forked("snapshot", "create", origin.name, at=(0, "begun"), send=(number,),
                           after=after)  # fmt: skip
            assert ended.code in (0, -number, 128 + number), ended
            wait_for_lvm(others)
            scribble(origin.device, 1, 2)
            assert suspended() == []
            dmsnap("job", "resume", "--all")
            found = names(origin)
            assert len(found) in (count, count + 1)
            assert len(found) == run("lvs", "--noheadings", "-o", "lv_name").count(
                "dmsnap-snapshot-"
            )
            for name in found:
                dmsnap("snapshot", "delete", name)
    assert dmsnap("job", "list")


def test_no_room_for_a_store(lab: Lab) -> None:
    origin = ORIGINS["lvm"](lab)
    for _ in range(3):
        take(origin)
    take(origin)
    with provider_of(origin) as provider, pytest.raises(NoSpaceError):
        provider.take(origin.name, percent=100)
    assert suspended() == []


def test_a_volume_behind_a_front_is_none_of_lvms(lab: Lab) -> None:
    """Its snapshots are points."""
    origin = ORIGINS["lvm"](lab)
    refused(4, "snapshot", "create", f"{origin.name}x")
    lab.protect(str(origin.device), lab.disk(2 * SIZE))
    refused(7, "snapshot", "create", origin.name)
    origin = ORIGINS["thin"](lab)
    lab.protect(str(origin.device), lab.disk(2 * SIZE))
    refused(7, "snapshot", "create", origin.name)


def test_a_metadata_snapshot_of_others_is_not_believed(lab: Lab) -> None:
    """What was written after it is not in it."""
    origin = ORIGINS["thin"](lab)
    fill(origin.device, 1)
    snapshot = take(origin)
    pool = f"{origin.name.split('/')[0]}-pool-tpool"
    run("dmsetup", "message", pool, "0", "reserve_metadata_snap")
    scribble(origin.device, 5, 2)
    refused(6, "snapshot", "changed", snapshot.name)
    assert run("dmsetup", "status", pool).split()[6] != "-"
    run("dmsetup", "message", pool, "0", "release_metadata_snap")
    assert dmsnap("snapshot", "changed", snapshot.name)["bytes"] > 0
