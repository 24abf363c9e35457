"""What the demonstration does, in order, told as it happens."""

import os
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demonstration import applications, checks, disaster, figures, volume
from demonstration.applications import Applications
from demonstration.figures import Recovery
from demonstration.mount_watch import MountWatch
from demonstration.notes import Lineage
from demonstration.program import Dmsnap, FailedError, run
from demonstration.volume import MIB, Volume

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Options:
    """How large everything is.

    ``spoil_replica``: the checks must find that. ``in_process``: as Dmsnap has it.
    """

    directory: Path
    size_bytes: int = 1024 * MIB
    files: int = 3000
    syncs: int = 5
    work_seconds: float = 3.0
    spoil_replica: bool = False
    in_process: bool = False


@dataclass(frozen=True, slots=True)
class SyncedPoint:
    """A point and how far the application's notes were before and after it was taken."""

    id: str
    before: int
    after: int


@dataclass
class Protected:
    """A volume and what happened to it."""

    volume: Volume
    disaster: str = ""
    points: list[SyncedPoint] = field(default_factory=list)
    lineage: Lineage = field(default_factory=lambda: Lineage(0, 0, 0))

    @property
    def name(self) -> str:
        return self.volume.name


class Story:
    """The run, from empty disks to volumes that were recovered for good."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.dmsnap = Dmsnap(in_process=options.in_process)
        self.began = time.monotonic()
        self.syncs: list[dict[str, Any]] = []
        self.recoveries: list[Recovery] = []

    def tell(self, text: str) -> None:
        moment = f"{time.monotonic() - self.began:6.1f} s  "
        indent = " " * len(moment)
        wrapped = textwrap.fill(text, WIDTH, initial_indent=moment, subsequent_indent=indent)
        print(wrapped, flush=True)

    def run(self) -> None:
        size_bytes, directory = self.options.size_bytes, self.options.directory
        orders = Protected(volume.create(directory, "orders", "ext4", size_bytes))
        archive = Protected(volume.create(directory, "archive", "xfs", size_bytes))
        both = (orders, archive)
        self.tell(
            f"two volumes of {size_bytes // MIB} MiB: orders (ext4) on {orders.volume.primary}, "
            f"archive (XFS) on {archive.volume.primary}"
        )
        with self.applications(both) as running, self.watch(both):
            for item in both:
                self.protect(item)
            for _ in range(self.options.syncs):
                time.sleep(self.options.work_seconds)
                for item in both:
                    self.sync(item)
            self.spoil(orders, archive)
            for item in both:
                self.recover(item)
            for item in both:
                self.check(item)
            self.copy_back(both, running)
            self.look_back(archive)
            for item in both:
                self.commit(item)
            self.end(running)
        for item in both:
            self.last_look(item)
        figures.show(self.syncs, self.recoveries, size_bytes)

    @contextmanager
    def applications(self, both: tuple[Protected, ...]) -> Iterator[Applications]:
        volumes = [item.volume for item in both]
        with applications.started(volumes, self.options.files) as running:
            self.tell(
                f"the applications (process {running.pid}) wrote {self.options.files} files and an "
                f"SQLite database on each, and go on"
            )
            yield running

    @contextmanager
    def watch(self, both: tuple[Protected, ...]) -> Iterator[None]:
        self.mounts = MountWatch([(item.volume.mount_point, item.volume.notes) for item in both])
        self.mounts.start()
        try:
            yield
        finally:
            self.mounts.stop()

    def protect(self, item: Protected) -> None:
        """While the volume is in use: the application sees a moment without a mount."""
        store = self.options.directory / "store"
        store.mkdir(exist_ok=True)
        subject = item.volume
        outcome = self.dmsnap(
            "protect", subject.primary, "--name", item.name, "--recovery", subject.recovery,
            "--store", store,
        )  # fmt: skip
        vanished, returned = self.mounts.absence(subject.mount_point, outcome.started)
        applications.wait_for_commit(subject, subject.position)
        self.tell(
            f"{item.name} is protected, {outcome.seconds:.1f} s: first copy "
            f"{figures.mib(outcome.result['bytes_written'])} MiB, "
            f"{1000 * (returned.moment - vanished.moment):.0f} ms without mount, "
            f"window {1000 * outcome.result['window_seconds']:.1f} ms"
        )

    def sync(self, item: Protected) -> None:
        subject = item.volume
        before = subject.position
        outcome = self.dmsnap("sync", item.name)
        result = outcome.result
        if self.mounts.changes(subject.mount_point, outcome.started):
            raise FailedError(f"{subject.mount_point} was unmounted by a sync")
        if result["tracker"] != "era" or result["bytes_dirty"] >= subject.size_bytes:
            raise FailedError(f"the sync did not follow what was written: {result}")
        item.points.append(SyncedPoint(result["point"], before, subject.position))
        self.syncs.append(result)
        self.tell(
            f"sync {len(item.points)} of {item.name}: point {result['point'][:8]}, "
            f"{figures.mib(result['bytes_written'])} MiB written, "
            f"window {1000 * result['window_seconds']:.1f} ms, {result['seconds']:.2f} s"
        )

    def spoil(self, orders: Protected, archive: Protected) -> None:
        time.sleep(self.options.work_seconds)
        if self.options.spoil_replica:
            name = disaster.spoil_replica(self.dmsnap, orders.volume, orders.points[-1].id)
            self.tell(f"asked to fail: a sector of {name} on {orders.volume.recovery} is changed")
        disaster.overwrite_start(orders.volume)
        orders.disaster = "64 MiB garbage"
        self.tell(f"DISASTER: garbage over the first 64 MiB of {orders.volume.primary} (orders)")
        before = archive.volume.position
        disaster.delete_everything(archive.volume)
        archive.disaster = "rm -rf"
        self.tell(f"DISASTER: everything in {archive.volume.mount_point} (archive) is deleted")
        failure = applications.wait_for_failure(archive.volume, before)
        self.tell(f"the application on archive fails: {failure}")

    def recover(self, item: Protected) -> None:
        """The newest point, and the application goes on."""
        point = item.points[-1]
        outcome, mounted, first = self.trial(item, point)
        steps_seconds = float(outcome.result["seconds"])
        self.recoveries.append(Recovery(item.name, item.disaster, steps_seconds, mounted, first))
        self.tell(
            f"{item.name} is back at point {point.id[:8]}: mounted {mounted:.2f} s after the "
            f"command began (its steps: {steps_seconds:.2f} s), the application goes on at "
            f"{first:.2f} s"
        )

    def trial(self, item: Protected, point: SyncedPoint) -> tuple[Any, float, float]:
        """Swap to a point; the seconds to the mount and to the application's next commit."""
        subject = item.volume
        outcome = self.dmsnap("swap", item.name, "--to", point.id, "--trial")
        if outcome.result["state"] != "trial" or outcome.result["point"] != point.id:
            raise FailedError(f"the swap did not show point {point.id}: {outcome.result}")
        vanished, returned = self.mounts.absence(subject.mount_point, outcome.started)
        item.lineage = Lineage(point.before, point.after, vanished.position)
        first = applications.wait_for_commit(subject, vanished.position)
        return outcome, returned.moment - outcome.started, first - outcome.started

    def check(self, item: Protected) -> None:
        """The content, while the application goes on, and the point's file system."""
        subject = item.volume
        found = checks.check_content(subject, item.lineage)
        command = checks.check_point(subject, self.options.directory)
        recovered = subject.commits(item.lineage.recovered)
        self.tell(
            f"{item.name} checked: {found.files} files with the checksums noted, "
            f"{found.transactions} transactions, PRAGMA integrity_check ok, {command} clean; "
            f"transactions {recovered[0].sequence} to {recovered[-1].sequence} are new"
        )
        self.tell(
            f"not there: {found.lost_transactions} transactions that came after the point, in "
            f"{found.lost_seconds:.1f} s"
        )

    def copy_back(self, both: tuple[Protected, ...], running: Applications) -> None:
        """The same by dd, with the disks to itself: the applications stand still."""
        with running.standing_still():
            for recovery, item in zip(self.recoveries, both, strict=True):
                recovery.copy_seconds = self.copy(item.volume)

    def copy(self, subject: Volume) -> float:
        image = self.options.directory / "copied-back.img"
        target = volume.loop_device(image, subject.size_bytes)
        try:
            os.sync()
            started = time.monotonic()
            run(
                "dd", f"if={subject.recovery}", f"of={target}", "bs=1M", "iflag=direct",
                "oflag=direct", "conv=fsync", f"count={subject.size_bytes // MIB}", "status=none",
            )  # fmt: skip
            seconds = time.monotonic() - started
        finally:
            run("losetup", "--detach", target)
            image.unlink()
        self.tell(
            f"beside it: {subject.recovery} ({subject.name}) copied to a new disk by dd, "
            f"{seconds:.2f} s"
        )
        return seconds

    def look_back(self, item: Protected) -> None:
        """The second oldest point in trial; back; and the newest once more."""
        older = self.second_oldest(item)
        self.revert(item)
        outcome, _, _ = self.trial(item, older)
        self.tell(
            f"{item.name} shows its second oldest point, {older.id[:8]}, in trial: "
            f"{outcome.result['seconds']:.2f} s"
        )
        self.check(item)
        self.revert(item)
        self.trial(item, item.points[-1])
        self.tell(f"{item.name} is at its newest point {item.points[-1].id[:8]} again")

    def second_oldest(self, item: Protected) -> SyncedPoint:
        """The oldest is that of the first copy, the second oldest that of the first sync."""
        listed = self.dmsnap("point", "list", item.name).result
        expected = [point.id for point in item.points]
        if [point["id"] for point in listed][1:] != expected:
            raise FailedError(f"the points of {item.name} are not {expected}: {listed}")
        return item.points[0]

    def revert(self, item: Protected) -> None:
        """Back to the primary, which the disaster emptied."""
        outcome = self.dmsnap("swap", "revert", item.name)
        self.mounts.absence(item.volume.mount_point, outcome.started)
        if any(item.volume.mount_point.iterdir()):
            raise FailedError(f"{item.name} is not the emptied volume after the revert")
        self.tell(
            f"{item.name}: the trial is reverted, {outcome.result['seconds']:.2f} s; the primary "
            f"is as it was left: empty"
        )

    def commit(self, item: Protected) -> None:
        """For good, while the application goes on."""
        subject = item.volume
        before = subject.position
        held = checks.overlay_bytes(subject)
        outcome = self.dmsnap("swap", "commit", item.name)
        written = len(subject.commits(before))
        if self.mounts.changes(subject.mount_point, outcome.started):
            raise FailedError(f"{subject.mount_point} was unmounted by a commit")
        if outcome.result["state"] != "promoted" or not written:
            raise FailedError(f"{written} transactions during the commit: {outcome.result}")
        self.tell(
            f"{item.name} is committed: {subject.recovery} is its primary now, "
            f"{figures.mib(held)} MiB of overlay "
            f"merged in {outcome.result['seconds']:.2f} s, {written} transactions meanwhile"
        )

    def end(self, running: Applications) -> None:
        running.end()
        self.tell(f"the applications (process {running.pid}) are stopped")

    def last_look(self, item: Protected) -> None:
        """Everything once more on the volume itself, and its file system without a twin."""
        subject = item.volume
        found = checks.check_content(subject, item.lineage)
        run("umount", subject.mount_point)
        command = checks.fsck(subject.fs_type, Path("/dev/mapper") / item.name)
        self.tell(
            f"{item.name} at the end: {found.transactions} transactions and {found.files} files "
            f"right, {command} clean"
        )
