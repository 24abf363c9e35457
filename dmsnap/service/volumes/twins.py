"""Devices of the host that may be what a recorded path led to, as much as what is there now.

What was moved, or copied, has a twin with the same file system. Where neither has an identity of
its own, a boot may exchange their names, and nothing on them says so.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.host import blockdev, inventory, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm.state import UUID_PREFIX, path_by_devno
from dmsnap.host.mountinfo import PROC
from dmsnap.host.signature import Signature
from dmsnap.host.sysfs import SYSFS, Sysfs
from dmsnap.recovery import replica

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Host:
    """Where devices are looked for, and how they are looked at."""

    sysfs: Sysfs = SYSFS
    proc: Path = PROC
    probe: Callable[[Path], Signature | None] = signature.probe
    label: Callable[[Path], Label | None] = replica.read_label
    silent: Callable[[Sequence[Path]], Collection[Path]] = inventory.silent


@dataclass(frozen=True, slots=True)
class Twins:
    """What may be the volume's device. ``here``: what is at the path may be it, too."""

    here: bool
    others: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Content:
    """Whether a device ``carries`` the volume, and is its primary by a label."""

    carries: bool
    is_primary: bool = False


def of(volume: Volume, path: str, device: BlockDevice, known: str, host: Host) -> Twins:
    """The devices beside ``device``, which is at ``path``, that may be what that led to.

    ``known`` is what is recorded of that: empty, a size, or what several may have. One that hangs
    is passed over: a boot is not to wait for what may be dead.
    """
    fitting = _fitting(volume, path, device, known, host)
    hanging = set(host.silent(fitting)) if fitting else set()
    for each in sorted(hanging):
        log.warning("%s does not answer: whether it is the device of %s is open", each, volume.name)
    found = {each: _content(volume, each, host) for each in fitting if each not in hanging}
    twins = {each: content for each, content in found.items() if content.carries}
    if not twins:
        return Twins(here=True, others=())
    here = _content(volume, device.path, host)
    labelled = tuple(each for each, content in twins.items() if content.is_primary)
    if volume.state is VolumeState.PROMOTED and path == volume.backing:
        # Its device has the label of that, which no copy has that a move left behind.
        if here.is_primary:
            return Twins(here=True, others=labelled)
        if labelled:
            return Twins(here=False, others=labelled)
    if here.is_primary and not known and not labelled:
        # As after a rebuild of the catalogue, which found it by that label.
        return Twins(here=True, others=())
    return Twins(here.carries, tuple(twins))


def elsewhere(volume: Volume, path: str) -> dict[str, str]:
    """The devices that the volume has at other paths, as far as they are known by their identity
    alone; where.
    """
    known = {device: name for name, device in volume.led_to}
    if volume.hydration is not None:
        known[volume.hydration.identity] = volume.hydration.target
    return {
        device: name
        for device, name in known.items()
        if name != path and inventory.is_telling(device) and not inventory.may_be_shared(device)
    }


def _fitting(volume: Volume, path: str, device: BlockDevice, known: str, host: Host) -> list[Path]:
    """Devices of the identity that is recorded, or where none is, of any that is large enough."""
    sysfs, found = host.sysfs, []
    moved = bool(volume.left_behind or volume.previous_backing)
    if not volume.fs_uuid and not moved:
        return []  # any disk that nobody uses looks like it
    own = inventory.device_identity(device.devno, sysfs=sysfs)
    by_itself = inventory.is_telling(own) and not inventory.may_be_shared(own)
    others = elsewhere(volume, path)
    for devno in sysfs.block_devices():
        try:
            identity = inventory.device_identity(devno, sysfs=sysfs)
            is_same = devno == device.devno or (by_itself and identity == own)
            fits = identity == known if known else sysfs.size_bytes(devno) >= volume.size_bytes
            fits = fits and not is_same and (identity == known or identity not in others)
            if fits and not _is_another(devno, device.devno, host):
                found.append(path_by_devno(devno, sysfs=sysfs))
        except (DmsnapError, OSError) as error:  # it went away
            log.debug("device %d is no twin: %s", devno, error)
    return found


def _is_another(devno: int, own: int, host: Host) -> bool:
    """Whether a device is certainly another: no volume, held by a stack of ours, or part of what it
    is compared with.
    """
    sysfs, proc = host.sysfs, host.proc
    uuids = (sysfs.dm_uuid(holder) or "" for holder in sysfs.holders(devno))
    return (
        not inventory.is_candidate(devno, sysfs=sysfs, proc=proc)
        or any(uuid.startswith(UUID_PREFIX) for uuid in uuids)
        or blockdev.depends_on(devno, own, sysfs=sysfs, proc=proc)
        or blockdev.depends_on(own, devno, sysfs=sysfs, proc=proc)
    )


def _content(volume: Volume, path: Path, host: Host) -> _Content:
    """What of the volume is on a device; one that fails carries nothing."""
    try:
        label, content = host.label(path), host.probe(path)
    except DmsnapError as error:
        log.debug("%s is no twin: %s", path, error)
        return _Content(carries=False)
    if label is not None and (
        label.state is not LabelState.PRIMARY or label.volume_uuid != volume.id
    ):
        return _Content(carries=False)  # a replica, or another volume's
    uuid = content.uuid if content else None
    if volume.fs_uuid:
        carries = uuid == volume.fs_uuid
    else:
        carries = content is None or content.usage != "filesystem"
    return _Content(carries, is_primary=label is not None)
