"""Which devices of volumes do not answer: asked before anything of them is read by ourselves.

Who reads a disk that hangs cannot be ended, and tells nothing of the other volumes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue import present
from dmsnap.catalogue.model import AreaRole, Volume, VolumeState
from dmsnap.catalogue.present import Present
from dmsnap.errors import DeadlineError, DmsnapError
from dmsnap.host import loop, lun, reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.session import Session
from dmsnap.snapshot import layers

ANSWER_SECONDS = reach.ANSWER_SECONDS
# Programs of the service that ask at the same time.
_AT_ONCE = 16

# Which of these do not answer.
Ask = Callable[[Sequence[BlockDevice]], Collection[BlockDevice]]


class Part(Enum):
    """What a device is to its volume."""

    RECOVERY = "recovery volume"
    SERVING = "what the front lies on"
    STORE = "a piece of the store"


@dataclass(frozen=True, slots=True)
class Silence:
    """The devices of a volume that do not answer, each with a sentence.

    ``anywhere``: one of this or another volume, for which LVM would wait, whatever it is asked.
    """

    sentences: Mapping[Part, str] = field(default_factory=dict)
    anywhere: bool = False

    def __contains__(self, part: Part) -> bool:
        return part in self.sentences


NOWHERE = Silence()


@dataclass(frozen=True, slots=True)
class _Place:
    part: Part
    device: BlockDevice
    path: str


def of_volumes(
    volumes: Sequence[Volume], recorded: Mapping[UUID, Present], ask: Ask | None = None
) -> dict[UUID, Silence]:
    """Ask the devices of all volumes, by ``ask`` or all at once; those that are away are said to be
    so by who uses them. Root.
    """
    places = {volume.id: list(_places(volume, recorded[volume.id])) for volume in volumes}
    asked = {place.device.devno: place.device for each in places.values() for place in each}
    silent = {device.devno for device in (ask or at_once)(list(asked.values()))}
    return {
        volume.id: Silence(
            {
                place.part: _sentence(volume, place)
                for place in reversed(places[volume.id])  # of the store the first piece is named
                if place.device.devno in silent
            },
            anywhere=bool(silent),
        )
        for volume in volumes
    }


def _places(volume: Volume, recorded: Present) -> Iterator[_Place]:
    """The devices that a volume stands on; of a primary that a trial stands in for, nothing."""
    if volume.recovery is not None:
        yield from _probed(Part.RECOVERY, volume.recovery)
    if volume.serving != volume.recovery:
        yield from _serving(volume)
    for role in (AreaRole.ERA_METADATA, AreaRole.SPARE):  # the others lie beside these
        for area in recorded.areas:
            if area.role is role:
                yield from _probed(Part.STORE, area.path)


def _serving(volume: Volume) -> Iterator[_Place]:
    """Not the front, which an LV's name leads to: who hung in that would keep a swap from it."""
    with suppress(DmsnapError):
        for node in layers.below(volume):
            yield _Place(Part.SERVING, BlockDevice.probe(node), volume.serving)


def _probed(part: Part, path: str) -> Iterator[_Place]:
    with suppress(DmsnapError):
        node = lun.node(path) if lun.is_name(path) else Path(path)
        if part is Part.STORE and not node.is_block_device():
            attached = loop.find(node)
            if attached is None:
                return
            node = attached
        yield _Place(part, BlockDevice.probe(node), path)


def _sentence(volume: Volume, place: _Place) -> str:
    hangs = reach.HANGS
    if place.part is Part.STORE:
        return f"{place.path}, in the store {volume.store} of {volume.name}, {hangs}"
    if place.part is Part.RECOVERY:
        return f"the recovery volume {place.path} {hangs}"
    swapping = volume.state is VolumeState.PROTECTED and volume.recovery is not None
    instead = f"; dmsnap swap {volume.name} puts the recovery volume in its place"
    return f"{place.path}, which {volume.name} lies on, {hangs}{instead if swapping else ''}"


def within(seconds: float) -> Ask:
    """As commands ask that read the devices afterwards: a disk that slept takes a while."""

    def ask(devices: Sequence[BlockDevice]) -> list[BlockDevice]:
        silent = reach.silent([device.path for device in devices], seconds)
        return [device for device in devices if device.path in silent]

    return ask


def require(session: Session, volume: Volume, seconds: float, *parts: Part) -> None:
    """Raise :class:`DeadlineError` when a device of a volume hangs, which is one of ``parts``."""
    recorded = present.of_volumes(session.catalogue, [volume.id])
    found = of_volumes([volume], recorded, within(seconds))[volume.id]
    for part in parts:
        if part in found:
            raise DeadlineError(found.sentences[part], volume=volume.name)


def at_once(devices: Sequence[BlockDevice]) -> list[BlockDevice]:
    """In threads of one child, which is left behind with what hangs: as commands do."""
    return list(within(ANSWER_SECONDS)(devices))


@dataclass(slots=True)
class Watch:
    """As the service asks, which has threads of its own, and looks again and again: by programs.

    ``unanswered`` has the devices that did not answer, each with the number of requests that it had
    completed by then. While that goes on, no other program joins the one that was left there.
    """

    unanswered: dict[str, int] = field(default_factory=dict)

    def __call__(self, devices: Sequence[BlockDevice]) -> list[BlockDevice]:
        if not devices:
            return []
        # Imported by the service alone: a command is not to wait for it.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(devices), _AT_ONCE)) as threads:
            answered = list(threads.map(self._answers, devices))
        return [device for device, does in zip(devices, answered, strict=True) if not does]

    def _answers(self, device: BlockDevice) -> bool:
        name, devno = str(device.path), device.devno
        completed = SYSFS.requests_completed(devno)
        waits = SYSFS.in_flight(devno) or SYSFS.dm_suspended(devno)
        if waits and self.unanswered.get(name) == completed:
            return False
        if reach.reads(device.path, ANSWER_SECONDS):
            self.unanswered.pop(name, None)
            return True
        self.unanswered[name] = SYSFS.requests_completed(devno)
        return False
