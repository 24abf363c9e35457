"""Recovery volumes found by their labels, on any device of the host: read-only."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dmsnap._native.label import Label, LabelState
from dmsnap.errors import CorruptError, DmsnapError, ForeignDeviceError
from dmsnap.host import blockdev, lun, lun_path, reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery import replica

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A device that carries a whole label."""

    device: BlockDevice
    label: Label


@dataclass(frozen=True, slots=True)
class Search:
    """What a look at all devices found; ``damaged``: a sentence for each label not whole."""

    found: tuple[Labelled, ...]
    damaged: tuple[str, ...]


def search(patience_seconds: float) -> Search:
    """Read the label of every device that is none of ours. What cannot be read has none.

    What does not answer within the time is told of, and left out: who reads it could not be ended.
    """
    paths = readable()
    silent = reach.silent(paths, patience_seconds)
    for path in silent:
        log.warning("%s does not answer: whether it carries a label is not known", path)
    found: list[Labelled] = []
    damaged = []
    for path in paths:
        if path in silent:
            continue
        try:
            labelled = look_at(path)
        except CorruptError as error:
            damaged.append(str(error))
        except DmsnapError as error:
            log.debug("no label: %s", error)
        else:
            found += [labelled] if labelled else []
    return Search(tuple(uppermost(found)), tuple(damaged))


def readable() -> list[Path]:
    """The nodes of the devices that there are to be read."""
    found = []
    for devno in SYSFS.block_devices():
        with suppress(DmsnapError):  # it has gone since
            if can_tell(devno):
                found.append(dm.path_by_devno(devno, sysfs=SYSFS))
    return found


def can_tell(devno: int) -> bool:
    """Whether a device is to be read: not what would hang, or shows another device's bytes."""
    if not SYSFS.size_bytes(devno) or (SYSFS.dm_name(devno) and SYSFS.dm_suspended(devno)):
        return False
    if (SYSFS.dm_uuid(devno) or "").startswith(dm.UUID_PREFIX):
        return False
    parent = SYSFS.partition_parent(devno)
    state = SYSFS.attribute(devno if parent is None else parent, "device/state")
    return state not in lun_path.LOST


def look_at(path: Path) -> Labelled | None:
    """The label of one device."""
    device = BlockDevice.probe(path)
    label = replica.read_label(device.path)
    return Labelled(device, label) if label else None


def uppermost(found: Sequence[Labelled]) -> list[Labelled]:
    """Without the disks below: a path of a multipath device shows what the whole of it does."""
    return [
        lower
        for lower in found
        if not any(
            upper.label.recovery_uuid == lower.label.recovery_uuid
            and upper.device.devno != lower.device.devno
            and blockdev.depends_on(upper.device.devno, lower.device.devno)
            for upper in found
        )
    ]


def telling(found: Sequence[Labelled]) -> list[Labelled]:
    """Of the labels of one volume those that say where it stands.

    A device that was the recovery volume and became the volume keeps its label: what a later
    recovery volume says counts, once that is whole. Where both became the volume, one after the
    other, the later one names the other as the former. Of copies of one label none is told apart.
    """
    primaries = [one for one in found if one.label.state is LabelState.PRIMARY]
    if not primaries or len({one.label.recovery_uuid for one in found}) < len(found):
        return list(found)
    states = (LabelState.PRIMARY, LabelState.COPYING)
    whole = [one for one in found if one.label.state not in states]
    if whole:
        return whole
    return [one for one in primaries if not any(_names(other, one) for other in primaries)]


def _names(one: Labelled, other: Labelled) -> bool:
    """Whether a label says that the other device is, or was, the volume's own."""
    if not one.label.device or one is other:
        return False
    try:
        devno = BlockDevice.probe(lun.node(one.label.device)).devno
    except DmsnapError:
        return False
    return devno == other.device.devno


def require_no_twin(device: BlockDevice, label: Label, found: Sequence[Labelled]) -> None:
    """Raise :class:`ForeignDeviceError` when another device says that it is the same one."""
    for other in found:
        same = other.label.recovery_uuid == label.recovery_uuid
        if same and other.device.devno != device.devno and not _is_same_disk(device, other.device):
            raise ForeignDeviceError(
                f"{device.path} and {other.device.path} both carry the label of recovery volume "
                f"{label.recovery_uuid} of {label.name}: one is a copy of the other",
                hint="take the copy away, or wipe its label",
                devices=[str(device.path), str(other.device.path)],
            )


def _is_same_disk(one: BlockDevice, other: BlockDevice) -> bool:
    return blockdev.depends_on(one.devno, other.devno) or blockdev.depends_on(
        other.devno, one.devno
    )
