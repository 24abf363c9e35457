"""A hydration: a volume's data on its way to another device, while the front serves.

Our own engine copies, and dm-era's marks say what was written meanwhile; nothing of the stack
changes before the end. So a device that fails, or a command that is killed, is none of the front's
business. Then the origin is held for a moment: what was marked last is copied, and it goes on over
the new device. dm-mirror was the alternative: its rate is one for all mirrors of the host
(raid1_resync_throttle), and every write would wait for the new device from the beginning.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap._native import copy, label, window
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import MOST_EXTENTS, ExtentSet
from dmsnap._native.label import Label
from dmsnap.catalogue.model import Hydration, Volume
from dmsnap.errors import AuditError, DeadlineError, DmsnapError, WrongStateError
from dmsnap.extent import Extent
from dmsnap.host import inventory, lun
from dmsnap.host.blockdev import BlockDevice, open_exclusive, open_shared
from dmsnap.host.counting import UncountedError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Linear, Table, format_table, single
from dmsnap.recovery import replica
from dmsnap.service.health import boot
from dmsnap.service.hydrations import crossing
from dmsnap.service.hydrations.crossing import Crossing
from dmsnap.service.progress import Progress
from dmsnap.service.records import backup
from dmsnap.service.replicas import read_back, rolling
from dmsnap.service.replicas.audit import Audit, AuditResult
from dmsnap.service.resizing import sizes
from dmsnap.service.session import Session
from dmsnap.service.volumes import identity
from dmsnap.snapshot import live, stack, write_count
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.tracking.choice import new_tracking_id
from dmsnap.units import MIB, align_up

if TYPE_CHECKING:
    from dmsnap.host.watchdog import Watchdog

log = logging.getLogger(__name__)

# What a kill loses at most: this, or what the bandwidth allows in two seconds.
PIECE_BYTES = 256 * MIB
PIECE_SECONDS = 2
SHORT_PASS_SECONDS = 0.2  # what the last pass, which holds the volume, may be expected to take
MAX_PASSES = 20
UNCOUNTED = 2**62  # more sectors than any device counts: like nothing that is counted later
LOAD_SECONDS = 1.0  # what must be left of the deadline when the new table is loaded


@dataclass(slots=True)
class Copied:
    """What a run did."""

    resumed_at_bytes: int = 0
    bytes_copied: int = 0
    bytes_compared: int = 0
    passes: int = 0
    bytes_held: int = 0
    held_seconds: float = 0.0


class Copying:
    """One run of a hydration, from where the last one was left."""

    def __init__(
        self,
        session: Session,
        volume: Volume,
        target: BlockDevice,
        record: Hydration,
        *,
        bandwidth: int,
        progress: Progress | None,
    ) -> None:
        self.session = session
        self.volume = volume
        self.source = BlockDevice.probe(lun.node(volume.backing))
        self.target = target
        self.record = record
        self.options = CopyOptions(
            bytes_per_second=bandwidth,
            source_name=str(self.source.path),
            most_extents=MOST_EXTENTS,
        )
        self.progress = progress
        self.crossing: Crossing | None = None  # what is noted of it
        self.compare_below = 0
        self.untouched = False  # nobody had written past the front when this run began
        self.done = Copied()
        self.audited = AuditResult(Audit.NONE)

    @property
    def _counts(self) -> Path:
        return self.session.configuration.run_directory

    def claim(self) -> None:
        """Hold the target, and find out what of it is the volume already.

        Recorded before anything is written to it. What was copied under marks that cannot be
        trusted any more is compared.
        """
        known_as = inventory.device_identity(self.target.devno)
        self.record = replace(self.record, identity=known_as)
        # What is left will carry the file system, and a boot may give its name to the new device.
        self.volume = identity.noted(self.volume, self.volume.backing, self.source.devno)
        device = stack.hydrated(self.volume)
        counts = rolling.counted(self.session, self.volume)
        self.untouched = write_count.bytes_before(self._counts, self.volume, counts) == 0
        begun = self.volume.hydration is not None
        trusted = begun and self._is_trusted()
        if not trusted:
            self.compare_below = self.record.position_bytes
            since = live.current_era(self.volume)
            tracking_id = self.volume.tracking_id
            self._note(position_bytes=0, since=since, tracking_id=tracking_id)
        self.done.resumed_at_bytes = self.record.position_bytes
        if not trusted:
            stack.remove(device)
        if not stack.exists(device):
            with open_exclusive(self.target.path, write=True):
                pass
            dm.create(device.name, device.uuid, target_table(self.target))
        if not self.record.position_bytes and not self.compare_below:
            # Behind the volume, what was on the device would stay and be found beside it; its label
            # would offer points that are written over.
            replica.make_blank(dm.node(device.name))
        boot.hide(self.volume)
        self._note(surplus_sectors=self._surplus())
        # Copying may take days: were all of this host lost meanwhile, it is known where it leads.
        backup.keep(self.session.catalogue, self.volume.name)

    def _is_trusted(self) -> bool:
        """Whether nobody but the front wrote to the source, and nobody but us to the target."""
        record, device = self.record, stack.hydrated(self.volume)
        return (
            record.source == self.volume.backing
            and record.tracking_id == self.volume.tracking_id
            and record.since <= live.current_era(self.volume)
            and stack.exists(device)
            and dm.table(device.name) == target_table(self.target)
            and record.surplus_sectors == self._surplus() != UNCOUNTED
            and self.untouched
        )

    def _surplus(self) -> int:
        device = stack.require(stack.hydrated(self.volume))
        try:
            return write_count.surplus(self.target.devno, device.devno).sectors
        except UncountedError as error:
            log.warning("%s: what was copied before it is interrupted is compared", error)
            return UNCOUNTED

    def _note(
        self,
        *,
        position_bytes: int | None = None,
        since: int | None = None,
        tracking_id: str | None = None,
        surplus_sectors: int | None = None,
    ) -> None:
        now = self.record
        self.record = replace(
            now,
            source=self.volume.backing,
            position_bytes=now.position_bytes if position_bytes is None else position_bytes,
            since=now.since if since is None else since,
            tracking_id=tracking_id or now.tracking_id,
            surplus_sectors=now.surplus_sectors if surplus_sectors is None else surplus_sectors,
        )
        self.volume = replace(self.volume, hydration=self.record)
        self.session.catalogue.update_volume(self.volume)

    def copy(self) -> None:
        """Everything once, from the beginning; what is done is recorded piece by piece."""
        size_bytes = self.volume.size_bytes
        while (position := self.record.position_bytes) < size_bytes:
            limit = self.compare_below if position < self.compare_below else size_bytes
            length = min(self._piece_bytes(), limit - position)
            piece = ExtentSet.from_extents([Extent(position, length)])
            self._transfer(piece, compare=position < self.compare_below, done=position)
            self._note(position_bytes=position + length)

    def _piece_bytes(self) -> int:
        bandwidth = self.options.bytes_per_second
        if not bandwidth:
            return PIECE_BYTES
        return min(PIECE_BYTES, align_up(PIECE_SECONDS * bandwidth, MIB))

    def _transfer(self, extents: ExtentSet, *, compare: bool = False, done: int = 0) -> None:
        size_bytes, name = self.volume.size_bytes, str(self.target.path)

        def report(bytes_done: int) -> None:
            if self.progress is not None:
                self.progress(done + bytes_done, size_bytes)

        with self._sides() as (source, destination):
            if compare:
                compared, extents, _ = copy.compare(
                    source,
                    destination,
                    size_bytes,
                    extents,
                    progress=report,
                    options=self.options,
                    name=name,
                )
                self.done.bytes_compared += compared.bytes_compared
            written = copy.apply(
                source,
                destination,
                size_bytes,
                extents,
                zero_detection=True,
                progress=report,
                options=self.options,
                name=name,
            )
        self.done.bytes_copied += written.bytes_written

    @contextmanager
    def _sides(self) -> Iterator[tuple[int, int]]:
        """The device below the origin, which answers while that is held, and the new one."""
        node = dm.node(stack.require(stack.hydrated(self.volume)).name)
        with open_shared(self.source.path) as source, open_exclusive(node, write=True) as target:
            yield source, target

    def catch_up(self) -> None:
        """What was written meanwhile, again and again, until there is little of it.

        :class:`DeadlineError` when the front is written to as fast as the new device takes it.
        """
        shortest = float("inf")
        for _ in range(MAX_PASSES):
            written, since = rolling.written_since(self.session, self.volume, self.record.since)
            begun = time.monotonic()
            self._transfer(written, done=self.volume.size_bytes - written.bytes)
            self._note(since=since)
            self.done.passes += 1
            shortest = min(shortest, time.monotonic() - begun)
            if shortest <= SHORT_PASS_SECONDS:
                return
        if 2000 * shortest > self.session.configuration.window_deadline_ms:
            raise DeadlineError(
                f"{self.volume.name} is written to as fast as {self.target.path} takes it: after "
                f"{MAX_PASSES} passes the last of it would still hold all writes for "
                f"{shortest:.1f} s",
                hint=f"what was copied is kept: run dmsnap hydrate {self.volume.name} again when "
                f"less is written, or without --bandwidth",
            )

    def audit(self, kind: Audit) -> None:
        """Read the new device back. Where it forgets, nothing that was copied is trusted."""
        whole = ExtentSet.whole(self.volume.size_bytes)
        try:
            with self._sides() as (source, target):
                copied = read_back.Copied(
                    source, target, str(self.target.path), whole, ExtentSet(), self.record.since
                )
                self.audited = read_back.audited(
                    self.session, self.volume, copied, kind, self.options, self.progress
                )
        except AuditError:
            self._note(position_bytes=0)
            raise

    def switch(self, primary: Label | None) -> Volume:
        """Hold the origin, copy what is left, and go on over the new device. Returns the volume.

        What is asked of the front meanwhile waits, at most until the watchdog resumes the origin.
        Before the new device's table is loaded it goes on over the old one then, and afterwards
        over the new one: that is noted first (``crossing``), and nothing takes it back.
        """
        # Imported here: all hold volumes, which may be on their way, and few take them there.
        from dmsnap.host import watchdog

        origin, begun = stack.origin(self.volume), time.monotonic()
        deadline_ms = self.session.configuration.window_deadline_ms
        with watchdog.watched(window.watchdog_path(), origin.uuid, deadline_ms) as guard:
            try:
                guard.start()
                counts = rolling.held(self.session, self.volume)
                begun = time.monotonic()
                self._copy_held(primary)
                self._load(self._moved(counts), guard)
                after = self._recorded()
                dm.resume(origin.name)
                self.done.held_seconds = time.monotonic() - begun
                guard.finish()
            except BaseException as error:
                guard.hush()
                guard.join()
                if not self._went_over(origin.name):
                    raise
                after = self._recorded_late(error)
                self.done.held_seconds = time.monotonic() - begun
        crossing.end(self.session.configuration.state_directory, after.id)
        return after

    def _copy_held(self, primary: Label | None) -> None:
        """Nothing is written to the source now, and marked is what wants to be."""
        marked = rolling.marked_since(self.session, self.volume, self.record.since)
        self.options, self.progress = replace(self.options, bytes_per_second=0), None
        self._transfer(marked)
        self.done.bytes_held = marked.bytes
        if primary is not None:
            with self._sides() as (_, target):
                label.write(target, self.target.size_bytes, primary, str(self.target.path))

    def _moved(self, counts: WriteCounts | None) -> Crossing:
        """What is to be noted, and recorded, of the volume on the new device.

        ``counts`` are of the moment since which the origin is held. What is written to the old
        device directly meanwhile is told by what that and the origin count by now.
        """
        volume = self.volume
        tracking_id = volume.tracking_id
        before = write_count.bytes_before(self._counts, volume, counts)
        if before != 0 or write_count.bytes_beside(self._counts, volume) != 0:
            # What somebody wrote past the front is no dirt of this front's: the next sync compares.
            tracking_id = new_tracking_id()
            self.volume = replace(volume, tracking_id=tracking_id)
            if self.untouched:
                raise WrongStateError(
                    f"{volume.backing} was written to past /dev/mapper/{volume.name} while it was "
                    f"copied",
                    hint=f"dmsnap hydrate {volume.name} compares what was copied",
                )
        return Crossing(
            source=volume.backing,
            target=self.record.target,
            device_bytes=sizes.to_record(volume, self.target.size_bytes),
            tracking_id=tracking_id,
            table=format_table(stack.origin_table(volume, self.target)),
            led_to=self.record.identity,
        )

    def _load(self, begun: Crossing, guard: "Watchdog") -> None:
        """From here on the volume goes on over the new device, whatever happens.

        Unless the deadline passes before the kernel has the table: the origin may go on over the
        old device by then, and to resume it once more would lose what was written there.
        """
        self.crossing = begun
        crossing.begin(self.session.configuration.state_directory, self.volume.id, begun)
        deadline_seconds = self.session.configuration.window_deadline_ms / 1000
        guard.require(min(LOAD_SECONDS, deadline_seconds / 4))
        dm.load(stack.origin(self.volume).name, stack.origin_table(self.volume, self.target))
        guard.require()
        write_count.remember(self._counts, begun.applied(self.volume))

    def _recorded(self) -> Volume:
        assert self.crossing is not None  # noqa: S101 - it was begun
        after = self.crossing.applied(self.volume)
        self.session.catalogue.update_volume(after)
        return after

    def _went_over(self, origin: str) -> bool:
        """After a failure: have the origin go on; whether it does so over the new device."""
        if self.crossing is None:
            crossing.resume(origin)
        else:
            directory = self.session.configuration.state_directory
            if crossing.goes_forward(directory, self.volume, self.crossing):
                return True
        with suppress(DmsnapError):
            self.session.catalogue.update_volume(self.volume)
        return False

    def _recorded_late(self, error: BaseException) -> Volume:
        """The origin goes on, and so does a server whose data lie on it: it may answer by now."""
        name, target = self.volume.name, self.target.path
        log.warning("%s went on over %s before that was recorded: %s", name, target, error)
        try:
            after = self._recorded()
            crossing.count_anew(self._counts, after)
        except DmsnapError as second:
            second.add_note(
                f"{name} goes on over {target} all the same; the next dmsnap command that works on "
                f"{name} records that, and no boot goes on over {self.volume.backing}"
            )
            raise
        if not isinstance(error, DmsnapError):
            raise error
        return after


def target_table(target: BlockDevice) -> Table:
    """All of the device: who holds it is us, and what it counts is ours."""
    return single(target.size_bytes, Linear(target.devno, 0))


def tidy(session: Session, volume: Volume) -> None:
    """Let go of the new device after a hydration, or of one that was killed when it was through."""
    if volume.hydration is None and stack.exists(stack.hydrated(volume)):
        stack.remove(stack.hydrated(volume))
        boot.hide(volume)
        boot.prepare(volume, session.configuration.state_directory)
