"""Pools: which of their devices are free, which volume has each of the others, or why it is no use.

Nothing else says so but the catalogue and the labels: when the catalogue is lost, a label still
names the volume that a device was taken for.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host import blockdev, iscsi_session, lun, reach, signature, udev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.lun import LunName
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery import lease, remains, replica
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission

if TYPE_CHECKING:
    from dmsnap.service.configuration.declaration import Pool


class Standing(StrEnum):
    """What a pool has of a device."""

    FREE = "free"
    TAKEN = "taken"
    UNUSABLE = "unusable"
    UNSEEN = "unseen"  # a LUN that nobody is logged in to: who chooses from the pool logs in


@dataclass(frozen=True, slots=True)
class PoolDevice:
    """A device of a pool, by the name that it is declared with.

    ``volume`` has it, or had it; ``reason`` is a part of a sentence about the device.
    """

    pool: str
    device: str
    size_bytes: int | None
    state: Standing
    volume: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    state: Standing
    volume: str | None = None
    reason: str | None = None


def list_devices(session: Session, names: Sequence[str]) -> list[PoolDevice]:
    """The devices of some pools, of all by default; nothing is logged in to or changed.

    Raises ``ConfigurationError``, and ``NotFoundError`` for a pool that is not declared.
    """
    declared = declared_pools()
    chosen = {name: declared_pool(declared, name) for name in names or declared}
    return [each for name in chosen for each in survey(session, name, chosen[name].volumes)]


def declared_pools() -> dict[str, "Pool"]:
    """Every pool by its name; ``ConfigurationError`` when there is any mistake in the tables."""
    # Imported where there are pools: pydantic takes a third of a command's start.
    from dmsnap.service.configuration import configuration_check

    return configuration_check.require().declared.pool


def declared_pool(declared: Mapping[str, "Pool"], name: str) -> "Pool":
    """The pool of that name, else ``NotFoundError``."""
    if name not in declared:
        others = ", ".join(sorted(declared)) or "none"
        raise NotFoundError(f"there is no pool {name!r}", hint=f"declared are: {others}")
    return declared[name]


def survey(session: Session, pool: str, names: Sequence[str]) -> list[PoolDevice]:
    """What is to be said of each device of a pool, in the order in which it names them. All are
    asked first whether they answer: who reads one that hangs cannot be ended.
    """
    looking = _Look(session, pool, silent=_silent(names))
    return [looking.at(name) for name in names]


def _silent(names: Sequence[str]) -> frozenset[int]:
    """The numbers of those that do not answer; what is missing is said of each."""
    devices: dict[Path, int] = {}
    for name in names:
        with suppress(DmsnapError):
            device = BlockDevice.probe(lun.node(name))
            if _unreadable(device) is None:
                devices[device.path] = device.devno
    return frozenset(devices[path] for path in reach.silent([*devices], reach.ANSWER_SECONDS))


@dataclass(slots=True)
class _Look:
    """One look at a pool. ``seen``: under which name a device was met first. ``silent`` are those
    that do not answer.
    """

    session: Session
    pool: str
    silent: frozenset[int]
    users: dict[str, _Verdict] = field(init=False)
    seen: dict[int, str] = field(default_factory=dict)
    ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        volumes = self.session.catalogue.volumes()
        self.users = dict(recorded_uses(volumes))
        self.ids = frozenset(str(volume.id) for volume in volumes)

    def at(self, name: str) -> PoolDevice:
        """One device. What cannot be looked at is of no use, whatever it is."""
        size_bytes: int | None = None
        try:
            device = BlockDevice.probe(lun.node(name))
            size_bytes = device.size_bytes
            verdict = self._judge(name, device)
        except DmsnapError as error:
            verdict = self._of_missing(name, error)
        return PoolDevice(
            self.pool, name, size_bytes, verdict.state, verdict.volume, verdict.reason
        )

    def _of_missing(self, name: str, error: DmsnapError) -> _Verdict:
        for recorded, verdict in self.users.items():
            if is_same(name, recorded):
                return verdict
        if lun.is_name(name) and not _is_attached(name):
            return _Verdict(Standing.UNSEEN, reason="nobody is logged in to its target")
        return _Verdict(Standing.UNUSABLE, reason=str(error))

    def _judge(self, name: str, device: BlockDevice) -> _Verdict:
        earlier = self.seen.setdefault(device.devno, name)
        if earlier != name:
            return _Verdict(Standing.UNUSABLE, reason=f"is the same device as {earlier}")
        silent = device.devno in self.silent
        for recorded, verdict in self.users.items():
            if is_same(name, recorded):
                return (
                    replace(verdict, reason=f"{verdict.reason}; {reach.HANGS}")
                    if silent
                    else verdict
                )
        unreadable = _unreadable(device) or (reach.HANGS if silent else None)
        if unreadable:
            return _Verdict(Standing.UNUSABLE, reason=unreadable)
        label = replica.read_label(device.path)
        if label is not None:
            return self._of_label(device, label)
        return self._of_content(name, device)

    def _of_label(self, device: BlockDevice, label: Label) -> _Verdict:
        """Taken for whom it says, also when the catalogue knows nothing of it."""
        if not lease.is_ours(label):
            return _Verdict(Standing.TAKEN, label.name, lease.claim(device.path, label))
        if str(label.volume_uuid) in self.ids:
            return _Verdict(Standing.TAKEN, label.name, "carries its label")
        was = "was its device" if label.state is LabelState.PRIMARY else "keeps its points"
        return _Verdict(Standing.TAKEN, label.name, f"{was}; it is not protected now")

    def _of_content(self, name: str, device: BlockDevice) -> _Verdict:
        if device.read_only:
            return _Verdict(Standing.UNUSABLE, reason="is read-only")
        users = _users(device)
        if users:
            return _Verdict(Standing.UNUSABLE, reason=f"is in use: {users}")
        content = signature.probe(device.path)
        if content is None:
            return _Verdict(Standing.FREE)
        left = remains.owner_of(self.session.catalogue, recorded_as(name), device, content)
        if left is None:
            return _Verdict(Standing.UNUSABLE, reason=f"holds {content}")
        return _Verdict(Standing.FREE, reason=f"holds what {left} left on it")


def _users(device: BlockDevice) -> str:
    """Who uses a device; udevd, which looks at what was just written to, is no user."""
    users = blockdev.describe_users(device)
    if users and not blockdev.lasting_users(device.devno) and udev.is_running():
        udev.settle()
        users = blockdev.describe_users(device)
    return users


def _unreadable(device: BlockDevice) -> str | None:
    """Why a device should not even be read: it would hang, or show another's bytes."""
    if not device.size_bytes:
        return "has no size"
    if SYSFS.dm_name(device.devno) and SYSFS.dm_suspended(device.devno):
        return "is suspended"
    if (SYSFS.dm_uuid(device.devno) or "").startswith(dm.UUID_PREFIX):
        return f"is {SYSFS.display_name(device.devno)}, a device of dmsnap's own"
    return None


def recorded_uses(volumes: Sequence[Volume]) -> Iterator[tuple[str, _Verdict]]:
    """Each device that the catalogue has, and what it is to which volume."""
    for volume in volumes:
        target = volume.hydration.target if volume.hydration else None
        for device, what in (
            (volume.backing, "is what it lies on"),
            (volume.recovery, "is its recovery volume"),
            (volume.previous_backing, "is its former device, to which failback leads"),
            (target, "is what it is being moved to"),
        ):
            if device:
                yield device, _Verdict(Standing.TAKEN, volume.name, what)


def is_same(declared: str, recorded: str) -> bool:
    """Whether a pool's name for a device and a recorded one mean the same, there or not."""
    if lun.is_name(declared) != lun.is_name(recorded):
        return False
    if lun.is_name(declared):
        one, other = LunName.parse(declared), LunName.parse(recorded)
        return (one.portal, one.target, one.lun) == (other.portal, other.target, other.lun)
    if declared == recorded:
        return True
    try:
        return admission.probed(declared) == admission.probed(recorded)
    except DmsnapError:
        return False


def recorded_as(declared: str) -> str:
    """The name by which the catalogue would have a pool's device, which is there."""
    if not lun.is_name(declared):
        return admission.recorded_name(declared)
    name = LunName.parse(declared)
    return str(name.identified(lun.disk_of(name).wwid()))


def _is_attached(name: str) -> bool:
    parsed = LunName.parse(name)
    return bool(iscsi_session.find(parsed.portal, parsed.target))
