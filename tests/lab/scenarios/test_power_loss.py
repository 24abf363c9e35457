"""The power fails anywhere in what writes a replica, its label or its history.

Each operation is run once over a disk that logs its writes. What may then be on that disk (every
prefix of the log, and what losses of unflushed writes make of it) offers no point that is not what
it was, and every point that the operation does not give up. ``replica_judge`` decides, which knows
the formats and nothing of dmsnap; the kernel shows some of the disks; dmsnap repairs some.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest
from conftest import MIB, Lab, dmsnap, forked, make_file_system, rarely, run, step_at
from raw_volume import KIB, SECTOR, Protected, fill, write_direct
from replica_judge import Found, Judge, chain, go_back, label_on, state_of, store_pairs
from test_everyday import checksums, write_files
from test_jobs import killed
from test_prune import under_policy
from test_resize import enlarge
from test_sync_faults import after_first_call, in_child, kill_this_process, recorded
from write_log import LoggedDisk, Recording, content, logged_disk

from dmsnap.recovery import replica

SIZE = 2 * MIB + 3 * SECTOR
RECOVERY_SIZE = 10 * MIB + 5 * SECTOR
SMALL_HISTORY = 8 * MIB
REPAIRED = 12  # of the disks that are torn, one in so many is repaired by dmsnap; with --all each
STATES_WITH_POINTS = ("consistent", "applying")


@dataclass
class Bench:
    """A raw volume whose recovery volume logs its writes, and what each of its points holds."""

    lab: Lab
    disk: LoggedDisk
    every: bool
    volume: Protected
    judge: Judge = field(default_factory=Judge)
    seed: int = 0

    def note(self) -> UUID:
        """The replica's point holds what the front shows: nobody has written since it was taken."""
        label = label_on(content(self.volume.recovery))
        assert label is not None
        self.judge.contents[label.point_uuid] = content(self.volume.front)
        return label.point_uuid

    def dirty(self) -> None:
        """Overwrite parts, among them some that every point changes, and the end."""
        self.seed += 1
        choices = random.Random(self.seed)
        for _ in range(12):
            length = choices.choice((SECTOR, 4 * KIB, 12 * KIB, 72 * KIB))
            place = choices.randrange((self.volume.size_bytes - length) // SECTOR) * SECTOR
            write_direct(self.volume.front, os.urandom(length), place)
        for place in (0, self.volume.size_bytes - SECTOR):
            write_direct(self.volume.front, os.urandom(SECTOR), place)

    def sync(self, *options: object) -> UUID:
        self.dirty()
        self.volume.sync(*options)
        return self.note()

    def points(self) -> list[UUID]:
        """What the label offers now, newest first; all of it is right."""
        return list(self.judge.judge(content(self.volume.recovery)).points)

    def look(self, recording: Recording, staying: Collection[UUID]) -> Counter[str]:
        """Judge every disk that may be; how many are in which state."""
        return look(recording, self.judge, staying, every=self.every)

    def repair(self, recording: Recording) -> None:
        """Have dmsnap roll back what is torn, and the kernel look at the first of it before."""
        volume = replace(recorded(self.volume.name), recovery=self.lab.disk(self.disk.size_bytes))
        device = str(volume.recovery)
        torn = (image for image in recording.states() if state_of(image) == "applying")
        repaired = 0
        for image in islice(torn, 0, None, 1 if self.every else REPAIRED):
            before = self.judge.judge(image)
            put(device, image)
            if not repaired:
                self.judge.require_by_kernel(device, before.points)
            with replica.opened(volume) as current:
                current.settle()
                current.require_consistent()
            assert self.judge.judge(content(device)) == Found("consistent", before.points)
            repaired += 1
        assert repaired


def look(
    recording: Recording, judge: Judge, staying: Collection[UUID] = (), *, every: bool = False
) -> Counter[str]:
    """Judge every disk that may be; those that offer points at all offer all of ``staying``."""
    found: Counter[str] = Counter()
    for image in recording.states(losses=5 if every else 1):
        each = judge.judge(image)
        found[each.state] += 1
        if each.state in STATES_WITH_POINTS:
            assert set(staying) <= set(each.points), each
    print(f"{len(recording.writes)} writes and flushes, disks that may be: {dict(found)}")
    return found


def put(device: str, image: bytes | bytearray) -> None:
    with open(device, "r+b", buffering=0) as file:
        file.write(image)
        os.fsync(file.fileno())


@contextmanager
def benched(
    lab: Lab, *, every: bool, size_bytes: int = SIZE, recovery_bytes: int = RECOVERY_SIZE
) -> Iterator[Bench]:
    """Protected, with one point."""
    primary = lab.disk(size_bytes)
    fill(Path(primary), size_bytes)
    with logged_disk(lab, recovery_bytes) as disk:
        volume = Protected(lab.protect(primary, disk.path), primary, disk.path, size_bytes)
        bench = Bench(lab, disk, every, volume)
        bench.note()
        yield bench


@pytest.fixture
def every(request: pytest.FixtureRequest) -> bool:
    """Look at more of the disks that may be, and have dmsnap repair all that are torn."""
    return bool(request.config.getoption("--all"))


@pytest.fixture
def bench(lab: Lab, every: bool) -> Iterator[Bench]:
    with benched(lab, every=every) as made:
        yield made


# syncs


@pytest.mark.parametrize("tracker", ["era", "compare"])
def test_a_sync_over_several_points(bench: Bench, tracker: str) -> None:
    for _ in range(3):
        bench.sync()
    staying = bench.points()
    assert len(staying) == 4
    bench.dirty()
    if tracker == "compare":
        write_direct(bench.volume.primary, os.urandom(8 * KIB), MIB)  # past the front
    with bench.disk.recorded() as recording:
        assert bench.volume.sync()["tracker"] == tracker
    new = bench.note()
    assert bench.points() == [new, *staying]
    found = bench.look(recording, staying)
    assert set(found) == {"consistent", "applying"}
    bench.repair(recording)


@pytest.mark.parametrize(
    "size_bytes", [rarely(4 * MIB), rarely(3 * MIB + 5 * SECTOR), rarely(MIB - SECTOR)]
)
def test_a_sync_of_another_size(lab: Lab, every: bool, size_bytes: int) -> None:
    with benched(lab, every=every, size_bytes=size_bytes) as bench:
        staying = [bench.sync(), bench.sync()]
        bench.dirty()
        with bench.disk.recorded() as recording:
            bench.volume.sync()
        bench.note()
        assert set(bench.look(recording, staying)) == {"consistent", "applying"}
        bench.repair(recording)


def test_a_sync_into_a_full_history(lab: Lab, every: bool) -> None:
    """Points give way to it: they are gone for good before anything lies where they did."""
    with benched(lab, every=every, recovery_bytes=SMALL_HISTORY) as bench:
        volume, gone = bench.volume, 0
        for number in range(7):
            before = bench.points()
            write_direct(volume.front, os.urandom(MIB), number % 2 * MIB)
            with bench.disk.recorded() as recording:
                volume.sync()
            bench.note()
            staying = bench.points()[1:]
            gone += len(set(before) - set(staying))
            assert set(bench.look(recording, staying)) == {"consistent", "applying"}
        assert gone >= 3
        bench.repair(recording)


def test_a_sync_after_one_that_was_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes back first, and then forward."""
    staying = [bench.sync(), bench.sync()]
    bench.dirty()
    with monkeypatch.context() as patched:
        after_first_call(patched, "write_new", kill_this_process)
        os.waitpid(in_child("sync", bench.volume.name), 0)
    assert state_of(content(bench.volume.recovery)) == "applying"
    bench.dirty()
    with bench.disk.recorded() as recording:
        bench.volume.sync()
    bench.note()
    assert set(bench.look(recording, staying)) == {"consistent", "applying"}
    bench.repair(recording)


@pytest.mark.exhaustive
def test_a_sync_that_takes_itself_back(bench: Bench) -> None:
    staying = [bench.sync(), bench.sync()]
    bench.dirty()
    at = (step_at("apply", "sync", bench.volume.name), "done")
    with bench.disk.recorded() as recording:
        ended = forked("sync", bench.volume.name, at=at, send=(signal.SIGTERM,))
    assert ended.code == 128 + signal.SIGTERM, ended
    assert bench.points()[:2] == staying[::-1]
    (new,) = {point for image in recording.states() for point in offered_by(image)} - {*staying}
    bench.judge.contents[new] = content(bench.volume.front)
    assert set(bench.look(recording, staying)) == {"consistent", "applying"}
    bench.repair(recording)


def offered_by(image: bytes | bytearray) -> set[UUID]:
    label = label_on(image)
    return set() if label is None or state_of(image) != "consistent" else {label.point_uuid}


@pytest.mark.exhaustive
def test_a_sync_of_a_file_system(lab: Lab) -> None:
    """What its first copy left out is written over before the label says anything: no point's files
    are there. The kernel shows each point of a disk, and its files are what they were.
    """
    size_bytes, recovery_bytes = 24 * MIB, 48 * MIB
    primary = lab.disk(size_bytes)
    make_file_system(primary, "ext4", "-b", 4096)
    place = lab.directory / "mnt"
    place.mkdir()
    run("mount", primary, place)
    lab.mounts.append(place)
    write_files(place, 12, 0)
    with logged_disk(lab, recovery_bytes) as disk:
        name = lab.name()
        words = ("protect", primary, "--name", name, "--recovery", disk.path)
        assert dmsnap(*words, "--store", lab.store())["bytes_skipped"] > 4 * MIB
        files = {point_on(disk.path): checksums(place)}
        for round_number in range(1, 4):
            write_files(place, 12, round_number)
            (place / f"only-{round_number}").write_bytes(os.urandom(MIB))
            with disk.recorded() as recording:
                dmsnap("sync", name, "--audit", "full")
            files[point_on(disk.path)] = checksums(place)
        judged = lab.disk(recovery_bytes)
        nr_states = sum(1 for _ in recording.states())
        for image in islice(recording.states(), 0, None, max(1, nr_states // 25)):
            put(judged, image)
            require_files(lab, judged, files)


def require_files(lab: Lab, device: str, files: dict[UUID, str]) -> None:
    """Every point that a disk offers is a clean file system with the files that it had."""
    label = label_on(Path(device).read_bytes())
    assert label is not None
    place = lab.directory / "judged"
    place.mkdir(exist_ok=True)
    with chain(device, label) as levels:
        offered = list(zip([entry.point_uuid for entry in label.history], levels, strict=True))
        if state_of(content(device)) == "consistent":
            offered.insert(0, (label.point_uuid, Path(device)))
        for point, level in offered:
            shown = lab.directory / "shown"
            run("dd", f"if={level}", f"of={shown}", "bs=1M", "count=24", "status=none")
            run("e2fsck", "-fn", shown)
            run("mount", "-o", "ro,noload,loop", shown, place)
            try:
                assert checksums(place) == files[point]
            finally:
                run("umount", place)


# histories


def test_a_point_is_deleted_in_the_middle(bench: Bench) -> None:
    for _ in range(4):
        bench.sync()
    newest, _, going, *older = points = bench.points()
    with bench.disk.recorded() as recording:
        dmsnap("point", "delete", going)
    staying = [point for point in points if point != going]
    assert bench.points() == staying
    assert staying[0] == newest
    assert len(older) == 2
    assert set(bench.look(recording, staying)) == {"consistent"}


def test_points_are_pruned(bench: Bench) -> None:
    """Runs of points are merged, the oldest dropped."""
    for _ in range(5):
        bench.sync()
    before = bench.points()
    policy = under_policy(bench.volume, primary=1, history=2)
    with policy, bench.disk.recorded() as recording:
        dmsnap("prune", bench.volume.name)
    staying = bench.points()
    assert len(staying) < len(before) - 1
    assert set(bench.look(recording, staying)) == {"consistent"}


def test_points_are_marked(bench: Bench) -> None:
    bench.sync()
    points = bench.points()
    with bench.disk.recorded() as recording:
        for point in points:
            dmsnap("point", "keep", point)
    assert bench.points() == points
    assert set(bench.look(recording, points)) == {"consistent"}


# first copies


def point_on(device: str) -> UUID:
    label = label_on(content(device))
    assert label is not None
    return label.point_uuid


@pytest.fixture
def blank(lab: Lab) -> Iterator[LoggedDisk]:
    """A disk full of what somebody left on it."""
    with logged_disk(lab, RECOVERY_SIZE) as disk:
        fill(Path(disk.path), disk.size_bytes)
        yield disk


@pytest.fixture
def former(lab: Lab, every: bool) -> Iterator[Bench]:
    """A recovery volume with points, whose volume is not protected any more."""
    with benched(lab, every=every) as made:
        made.sync()
        dmsnap("unprotect", made.volume.name)
        assert len(made.points()) == 2
        yield made


def test_the_first_copy_of_a_volume(lab: Lab, blank: LoggedDisk, every: bool) -> None:
    primary = lab.disk(SIZE)
    fill(Path(primary), SIZE)
    held, judge = content(primary), Judge()
    with blank.recorded() as recording:
        lab.protect(primary, blank.path)
    judge.contents[point_on(blank.path)] = held
    found = look(recording, judge, every=every)
    assert set(found) == {"none", "copying", "consistent"}


def test_the_first_copy_over_the_points_of_another_volume(lab: Lab, former: Bench) -> None:
    """Their label must not say that they are there when the first of it is gone."""
    primary, disk = lab.disk(SIZE), former.disk
    fill(Path(primary), SIZE)
    held = content(primary)
    make_recognisable(former)
    with disk.recorded() as recording:
        lab.protect(primary, disk.path, "--overwrite")
    former.judge.contents[point_on(disk.path)] = held
    found = former.look(recording, ())
    assert {"copying", "consistent"} <= set(found)


def make_recognisable(former: Bench) -> None:
    """Have what it holds be a file system, which is wiped before anything else is written."""
    name = former.lab.protect(former.volume.primary, former.disk.path, "--overwrite")
    former.volume = replace(former.volume, name=name)
    former.note()
    make_file_system(former.volume.front)
    former.volume.sync()
    former.note()
    dmsnap("unprotect", name)
    former.points()


def test_a_first_copy_that_takes_itself_back(lab: Lab, blank: LoggedDisk, every: bool) -> None:
    """When all was copied, and the label had said so."""
    primary, judge, name = lab.disk(SIZE), Judge(), lab.name()
    fill(Path(primary), SIZE)
    held = content(primary)
    words = ("protect", primary, "--name", name, "--recovery", blank.path, "--store", lab.store())
    at = (step_at("mark-consistent", *words), "done")
    with blank.recorded() as recording:
        ended = forked(*words, at=at, send=(signal.SIGTERM,))
    assert ended.code == 128 + signal.SIGTERM, ended
    offered = {point for image in recording.states() for point in offered_by(image)}
    judge.contents |= dict.fromkeys(offered, held)
    assert len(offered) == 1
    found = look(recording, judge, every=every)
    assert set(found) == {"none", "copying", "consistent"}
    assert state_of(recording.end()) == "none"


def test_a_first_copy_that_was_killed_is_taken_back(
    lab: Lab, blank: LoggedDisk, every: bool
) -> None:
    primary, name = lab.disk(SIZE), lab.name()
    fill(Path(primary), SIZE)
    words = ("protect", primary, "--name", name, "--recovery", blank.path, "--store", lab.store())
    job = killed(*words, at="mark-consistent")
    assert state_of(content(blank.path)) == "copying"
    with blank.recorded() as recording:
        dmsnap("job", "abort", job["id"])
    found = look(recording, Judge(), every=every)
    assert set(found) == {"none", "copying"}


def test_a_recovery_volume_that_is_used_again(former: Bench) -> None:
    """Brought up to date in place of a first copy: its points stay."""
    staying = former.points()
    write_direct(former.volume.primary, os.urandom(300 * KIB), MIB // 2)
    words = ("protect", former.volume.primary, "--name", former.volume.name)
    with former.disk.recorded() as recording:
        dmsnap(*words, "--recovery", former.disk.path, "--store", former.lab.store())
    former.note()
    assert former.points()[1:] == staying
    assert set(former.look(recording, staying)) == {"consistent", "applying"}
    former.repair(recording)


def test_the_first_copy_to_a_new_recovery_volume(lab: Lab, former: Bench) -> None:
    """``attach``, onto a device that another volume's points are on."""
    make_recognisable(former)
    primary, recovery, disk = lab.disk(SIZE), lab.disk(RECOVERY_SIZE), former.disk
    fill(Path(primary), SIZE)
    name = lab.protect(primary, recovery)
    dmsnap("swap", name)
    dmsnap("swap", "commit", name)
    with disk.recorded() as recording:
        dmsnap("attach", name, "--recovery", disk.path, "--overwrite")
    held = content(f"/dev/mapper/{name}")
    former.judge.contents[point_on(disk.path)] = held
    found = former.look(recording, ())
    assert {"copying", "consistent"} <= set(found)


def test_a_volume_that_moves_over_the_points_of_another(lab: Lab, former: Bench) -> None:
    """``hydrate``: what is overwritten is offered no more, then or later."""
    make_recognisable(former)
    primary, recovery, disk = lab.disk(SIZE), lab.disk(RECOVERY_SIZE), former.disk
    fill(Path(primary), SIZE)
    name = lab.protect(primary, recovery)
    with disk.recorded() as recording:
        dmsnap("hydrate", name, "--onto", disk.path, "--overwrite")
        write_direct(f"/dev/mapper/{name}", os.urandom(64 * KIB), MIB)
    found = former.look(recording, ())
    assert set(found) == {"none", "consistent"}
    assert state_of(recording.end()) == "none"


@pytest.mark.exhaustive
def test_a_copy_of_a_point_over_the_points_of_another(lab: Lab, former: Bench) -> None:
    """It has no label; its beginning, by which it is known, is written when all else is there."""
    make_recognisable(former)
    primary, disk = lab.disk(SIZE), former.disk
    fill(Path(primary), SIZE)
    held = content(primary)
    name = lab.protect(primary, lab.disk(RECOVERY_SIZE))
    (point,) = dmsnap("point", "create", name)
    with disk.recorded() as recording:
        dmsnap("point", "copy", point["id"], "--onto", disk.path, "--overwrite")
    assert set(former.look(recording, ())) == {"none", "consistent"}
    for image in recording.states():
        if image[:SECTOR] == held[:SECTOR]:
            assert image[4 * KIB : len(held)] == held[4 * KIB :]
    assert recording.end()[: len(held)] == held


# labels that move, change or go


def test_a_label_that_moves_to_a_new_end(bench: Bench) -> None:
    """It is at the new end, or where it was: the later of the two counts, and both are right."""
    staying = [bench.sync(), bench.sync()]
    former_bytes = bench.disk.size_bytes
    bench.disk.grow(former_bytes + 16 * MIB)  # room for the backup, too
    with bench.disk.recorded() as recording:
        assert dmsnap("resize", bench.volume.name)["label_moved"]
    moved = 0
    for image in recording.states(losses=5 if bench.every else 1):
        found = bench.judge.judge(image)
        if found.state == "none":
            found = bench.judge.judge(image[:former_bytes])
        else:
            moved += 1
        assert found.state == "consistent"
        assert set(staying) <= set(found.points)
    assert moved > 0
    assert set(staying) <= set(bench.points())
    assert state_of(recording.end()[:former_bytes]) == "none"


@pytest.mark.parametrize("grows", [False, rarely(True)], ids=["device", "volume"])
def test_the_label_of_a_promoted_volume_moves(bench: Bench, grows: bool) -> None:
    """It says all the time that the volume is there, and no point."""
    name, former_bytes = bench.volume.name, bench.disk.size_bytes
    dmsnap("swap", name, "--trial")
    dmsnap("swap", "commit", name)
    bench.disk.grow(former_bytes + 16 * MIB)  # room for the backup, too
    if grows:
        enlarge(bench.lab, bench.volume.primary, SIZE + 2 * MIB)
    keeping = [] if grows else ["--keep-size"]
    with bench.disk.recorded() as recording:
        assert dmsnap("resize", name, *keeping)["label_moved"]
    for image in recording.states(losses=5 if bench.every else 1):
        found = bench.judge.judge(image)
        if found.state == "none":
            found = bench.judge.judge(image[:former_bytes])
        assert found == Found("primary")
    assert state_of(recording.end()) == "primary"
    assert state_of(recording.end()[:former_bytes]) == "none"


@pytest.mark.exhaustive
def test_a_replica_that_grows_into_its_history(bench: Bench) -> None:
    """Undo stores move out of its way; points have zeroes where the volume was not."""
    staying = [bench.sync(), bench.sync(), bench.sync()]
    larger = 3 * MIB + SECTOR
    enlarge(bench.lab, bench.volume.primary, larger)
    with bench.disk.recorded() as recording:
        dmsnap("resize", bench.volume.name)
    assert set(staying) <= set(bench.points())
    assert set(bench.look(recording, staying)) == {"consistent"}
    bench.volume.size_bytes = larger
    fill(bench.volume.front, larger)
    with bench.disk.recorded() as recording:
        bench.volume.sync()
    bench.note()
    assert set(staying) <= set(bench.points())
    assert set(bench.look(recording, staying)) == {"consistent", "applying"}
    bench.repair(recording)


@pytest.mark.parametrize("forget", [False, True], ids=["kept", "forgotten"])
def test_a_volume_that_is_protected_no_more(bench: Bench, forget: bool) -> None:
    staying = [bench.sync(), bench.sync()]
    with bench.disk.recorded() as recording:
        dmsnap("unprotect", bench.volume.name, *(["--forget"] if forget else []))
    end = {"none"} if forget else {"consistent"}
    assert set(bench.look(recording, staying)) == {"consistent"} | end
    assert {state_of(recording.end())} == end


# swaps


def test_recovery_by_a_label_alone(lab: Lab, former: Bench) -> None:
    """The label says whose it is, and nobody's again; and after a commit that there is no point."""
    staying, name = former.points(), former.volume.name
    with former.disk.recorded() as recording:
        dmsnap("swap", "--from-label", former.disk.path, "--store", lab.store())
        write_direct(former.volume.front, os.urandom(300 * KIB), MIB)
        dmsnap("unprotect", name)
    assert set(former.look(recording, staying)) == {"consistent"}
    dmsnap("swap", "--from-label", former.disk.path, "--store", lab.store())
    write_direct(former.volume.front, os.urandom(300 * KIB), MIB)
    with former.disk.recorded() as recording:
        dmsnap("swap", "commit", name)
    assert set(former.look(recording, ())) == {"consistent", "merging", "primary"}


def test_a_commit(bench: Bench) -> None:
    """To two steps back: until all is merged that leads there, the label's stores do."""
    wanted = [bench.sync(), bench.sync(), bench.sync()][0]
    dmsnap("swap", bench.volume.name, "--to", wanted, "--trial")
    write_direct(bench.volume.front, os.urandom(300 * KIB), MIB)
    with bench.disk.recorded() as recording:
        dmsnap("swap", "commit", bench.volume.name)
    found = bench.look(recording, ())
    assert set(found) == {"consistent", "merging", "primary"}
    before_overlay = sum(leads_to(bench.judge, image, wanted) for image in recording.states())
    assert before_overlay > 0


def leads_to(judge: Judge, image: bytearray, wanted: UUID) -> bool:
    """Whether the levels down to a point that is merged into are needed still, and right then.

    Without any chunk left in them the overlay is merged, which lies on another disk.
    """
    label = label_on(image)
    if label is None or state_of(image) != "merging":
        return False
    shown, chunks = bytearray(image[: label.size_bytes]), 0
    for entry in label.history:
        chunks += len(store_pairs(image, entry))
        go_back(image, shown, entry)
        if entry.point_uuid == wanted:
            break
    if chunks:
        assert bytes(shown) == judge.contents[wanted]
    return chunks > 0


def test_the_label_of_a_failback(bench: Bench) -> None:
    """What was promoted is a replica again from the moment on in which its label says so."""
    bench.sync()
    name = bench.volume.name
    dmsnap("swap", name, "--trial")
    bench.dirty()
    dmsnap("swap", "commit", name)
    bench.dirty()
    with bench.disk.recorded() as recording:
        dmsnap("failback", name)
    bench.judge.contents.clear()
    bench.note()
    assert set(bench.look(recording, ())) == {"primary", "consistent"}
    assert len(bench.points()) == 1
