"""A spare: era metadata that dm-era has formatted before anybody needs it.

Formatting takes longer the larger the volume is, and a swap must not. So whatever holds a volume
and is done with it leaves a spare in the store, and the next swap or failback takes that.

A spare is used once. To take it is one change in the catalogue, made before any era target opens
it: from then on it is the metadata of a generation, and goes with it whatever happens. Before it is
recorded as a spare the device that formatted it is gone: two era targets on one would destroy it.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dmsnap._native.era import EraMetadata
from dmsnap.catalogue.model import Area, AreaRole, Volume, VolumeState
from dmsnap.errors import DmsnapError, InterruptedBySignal, NotFoundError
from dmsnap.host import blockdev, signals
from dmsnap.host.blockdev import open_shared
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Era, single
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import era_metadata_bytes, open_space, plan_area
from dmsnap.units import align_up, format_size

log = logging.getLogger(__name__)

WANTED_IN = (VolumeState.PROTECTED, VolumeState.PROMOTED)


class NextMetadata:
    """The era metadata of the generation that a volume goes to: the spare, where there is one."""

    def __init__(self, session: Session, volume: Volume) -> None:
        self._session = session
        self._volume = volume
        ready = find(session, volume)
        self.formatted = ready is not None
        self.area: Area = (
            replace(ready, role=AreaRole.ERA_METADATA, generation=volume.generation)
            if ready
            else planned(volume)
        )

    def create(self) -> None:
        """Have it in the store, recorded as this generation's."""
        if self.formatted:
            self._session.catalogue.update_area(self.area)
        else:
            self._session.create_area(self._volume, self.area)

    def release(self) -> None:
        """Give it back: it may have been opened, and is never a spare again."""
        self._session.release_area(self._volume, self.area)

    def steps(self) -> list[Step]:
        """What is left to do before a front can be loaded over it."""
        if self.formatted:
            return []
        return [
            Step(
                "make-era-metadata",
                f"let dm-era make the new metadata of {self._volume.name}",
                partial(trial.make_metadata, self._volume, self.area),
                partial(stack.remove, stack.era_maker(self._volume)),
            )
        ]


def planned(volume: Volume) -> Area:
    """Room for the metadata of the volume's generation."""
    size_bytes = era_metadata_bytes(volume.size_bytes, volume.block_bytes)
    return plan_area(volume, AreaRole.ERA_METADATA, size_bytes)


def find(session: Session, volume: Volume) -> Area | None:
    """The volume's spare; None when there is none, or it is not what it should be."""
    return _fit(volume, session.catalogue.areas(volume.id))


def _fit(volume: Volume, areas: Sequence[Area]) -> Area | None:
    for area in areas:
        try:
            if area.role is AreaRole.SPARE and _is_fit(volume, area):
                return area
        except DmsnapError:
            log.debug("%s is no spare any more", area.path, exc_info=True)
    return None


def _is_fit(volume: Volume, area: Area) -> bool:
    """Whether it is metadata of a volume of this size, and nobody has it open."""
    device = stack.attach_area(volume, area)
    if blockdev.holders(device.devno):
        return False
    with (
        open_shared(device.path) as descriptor,
        EraMetadata.open(descriptor, str(device.path)) as metadata,
    ):
        found = metadata.superblock
    nr_blocks = align_up(volume.size_bytes, volume.block_bytes) // volume.block_bytes
    return (found.block_size_bytes, found.nr_blocks) == (volume.block_bytes, nr_blocks)


def reason_without(
    session: Session, volume: Volume, areas: Sequence[Area], lvm_hangs: bool = False
) -> str | None:
    """Why the next swap formats its metadata itself; None: it need not, or it takes no time.

    ``areas`` are the recorded pieces of its store. ``lvm_hangs``, as with any disk of the host that
    does: LVM is not asked how much room a volume group has.
    """
    if not _is_wanted(session, volume) or _fit(volume, areas) is not None:
        return None
    if lvm_hangs and not volume.store.startswith("/"):
        return "there are no spare era metadata, and LVM is not asked for room while a disk hangs"
    try:
        lack = _lack_of_room(session, volume)
    except DmsnapError as error:  # a store that is away keeps nobody from what is said of the rest
        return str(error)
    return lack or "no spare era metadata was made since the last swap"


def _is_wanted(session: Session, volume: Volume) -> bool:
    return volume.state in WANTED_IN and volume.size_bytes >= session.configuration.spare_from_bytes


def _lack_of_room(session: Session, volume: Volume) -> str | None:
    """A spare must not take what the next point or the next trial needs."""
    free_bytes = open_space(volume.store).free_bytes()
    spare_bytes = planned(volume).size_bytes
    needed_bytes = spare_bytes + session.plan_cow(volume).size_bytes
    if free_bytes >= needed_bytes:
        return None
    return (
        f"the store {volume.store} has {format_size(free_bytes)} free, spare era metadata "
        f"({format_size(spare_bytes)}) beside a point takes {format_size(needed_bytes)}"
    )


def keep(session: Session, name: str) -> None:
    """Make a spare, if there is none and room for one. The volume's lock is held.

    Called when a command is done: neither a failure nor a signal takes anything away from that.
    """
    try:
        volume = session.catalogue.volume(name)
        if not _is_wanted(session, volume) or find(session, volume) is not None:
            return
        if _lack_of_room(session, volume) is None:
            journal.run(session.catalogue, Making(session, volume).plan())
    except InterruptedBySignal as signalled:
        log.debug("interrupted while making a spare", exc_info=True)
        signals.conclude(signalled.signal_number)
    except DmsnapError as error:
        log.warning("no spare era metadata was made for %s: %s", name, error)
        signals.conclude()


class Making:
    """The plan that makes a spare. Nothing is written to the device that formats it."""

    def __init__(self, session: Session, volume: Volume) -> None:
        self.session = session
        self.volume = volume
        # Its name says which generation will take it: without a catalogue that is all there is.
        following = planned(replace(volume, generation=volume.generation + 1))
        self.area = replace(following, role=AreaRole.UNFINISHED_SPARE, generation=volume.generation)

    def plan(self) -> Plan:
        name, session, area = self.volume.name, self.session, self.area
        steps = [
            Step(
                "create-spare",
                f"create spare era metadata of {name} in {self.volume.store}",
                self._create,
                partial(session.release_area, self.volume, area),
            ),
            Step(
                "format-spare",
                "let dm-era format it",
                self._format,
                partial(stack.remove, stack.spare_maker(self.volume)),
            ),
            Step("record-spare", "record that it is ready", self._record),
        ]
        return Plan("spare", (self.volume.id,), steps)

    def _create(self) -> None:
        for unfit in self.session.catalogue.areas(self.volume.id, AreaRole.SPARE):
            self.session.release_area(self.volume, unfit)
        self.session.create_area(self.volume, self.area)

    def _format(self) -> None:
        device = stack.spare_maker(self.volume)
        metadata = stack.attach_area(self.volume, self.area)
        below = stack.require(stack.origin(self.volume))
        target = Era(metadata.devno, below.devno, self.volume.block_bytes)
        dm.create(device.name, device.uuid, single(self.volume.size_bytes, target))
        stack.remove(device)

    def _record(self) -> None:
        self.session.catalogue.update_area(replace(self.area, role=AreaRole.SPARE))


def remove_unfinished(session: Session, volume: Volume) -> None:
    """What a command left that was killed while it made a spare."""
    for area in session.catalogue.areas(volume.id, AreaRole.UNFINISHED_SPARE):
        stack.remove(stack.spare_maker(volume))
        session.release_area(volume, area)


def release_retired(session: Session, volume: Volume) -> None:
    """Give metadata back that no front has open; what has one goes when that is through."""
    areas = session.catalogue.areas(volume.id)
    for area in areas:
        if area.role is AreaRole.RETIRED and not _is_open(volume, area, areas):
            session.release_area(volume, area)


def _is_open(volume: Volume, area: Area, areas: Sequence[Area]) -> bool:
    """Whether a front has a piece of the store open; ``NotFoundError`` when the store is away.

    One that is not in its store was given back by a command that did not live to record that. What
    says that it is the store, and no directory whose file system is not mounted, is another one of
    the recorded pieces, ``areas``.
    """
    try:
        device = stack.attach_area(volume, area)
    except NotFoundError:
        open_space(volume.store).require()
        if not any(Path(other.path).exists() for other in areas if other.id != area.id):
            raise
        return False
    return bool(blockdev.holders(device.devno))
