"""Whose recovery volume it is: the lease in its label, renewed with every label that is written.

Two hosts that write to one recovery volume would destroy it, and neither could see the other: what
both see is the label. It names the host that claims the volume and when that host last wrote here.
"""

from dataclasses import replace
from pathlib import Path

from dmsnap._native import label as labels
from dmsnap._native.label import Label, LabelTwin
from dmsnap.catalogue.clock import format_time, now_ns
from dmsnap.catalogue.model import Volume
from dmsnap.errors import CorruptError, ForeignDeviceError
from dmsnap.host import kernel
from dmsnap.units import to_sectors

OPTION_SEPARATOR = ","


def stamped(new: Label, volume: Volume) -> Label:
    """``new`` with this host's lease, and with what recovery needs when the catalogue is gone."""
    mount_point, mount_options = mount_words(volume)
    return renewed(
        replace(
            new,
            block_size=to_sectors(volume.block_bytes),
            chunk_size=to_sectors(volume.chunk_bytes),
            device=said("device", volume.backing),
            store=said("store", volume.store),
            mount_point=mount_point,
            mount_options=mount_options,
        )
    )


def mount_words(volume: Volume) -> tuple[str, str]:
    """Where the volume is mounted first and how; empty where it is not, or it does not fit."""
    for record in volume.mounts[:1]:
        options = OPTION_SEPARATOR.join(record.options)
        if labels.fits("mount_point", record.mount_point) and labels.fits("mount_options", options):
            return record.mount_point, options
    return "", ""


def said(field: str, text: str) -> str:
    """A text as a label has it: empty is "not known", which is better than a part of a path."""
    return text if labels.fits(field, text) else ""


def renewed(new: Label) -> Label:
    """``new`` as this host's, as of now."""
    name = said("host", kernel.host_name())
    return replace(new, host=name, host_uuid=kernel.machine_id(), lease_time_ns=now_ns())


def released(new: Label) -> Label:
    """``new`` as nobody's: any host may take the recovery volume."""
    return replace(new, host_uuid=None)


def is_ours(current: Label) -> bool:
    """Whether no other host claims it. A host without an identity of its own owns nothing."""
    return current.host_uuid is None or current.host_uuid == kernel.machine_id()


def claim(path: Path, current: Label) -> str:
    """Who claims a recovery volume that is not ours, and the last that was seen of them."""
    return (
        f"{path} is the recovery volume of {current.name} on the host "
        f"{current.host or 'without a name'} ({current.host_uuid}), whose last sign of life is of "
        f"{format_time(current.lease_time_ns)}"
    )


def require_ours(path: Path, current: Label) -> None:
    """Raise :class:`ForeignDeviceError` when another host claims the recovery volume."""
    if not is_ours(current):
        raise ForeignDeviceError(
            claim(path, current),
            hint="--force takes it over: make sure first that the other host does not use it",
            host=current.host,
            host_uuid=str(current.host_uuid),
            lease_time_ns=current.lease_time_ns,
        )


def damage(path: Path, current: Label) -> str | None:
    """What is wrong with the other of the label's two sectors; None: nothing."""
    if current.twin is LabelTwin.DAMAGED:
        return (
            f"one of the two label sectors of {path} is damaged; the other one says the same, and "
            f"the next sync writes both"
        )
    if current.twin is LabelTwin.DOUBTFUL:
        return (
            f"one of the two label sectors of {path} is damaged, and it may have been the newer "
            f"one: what the replica holds now is not known"
        )
    return None


def require_trusted(path: Path, current: Label) -> None:
    """Raise :class:`CorruptError` when a later label may be lost: its history may be, too."""
    if current.twin is LabelTwin.DOUBTFUL:
        raise CorruptError(
            damage(path, current) or "",
            hint="unprotect the volume and protect it again: that copies in full",
        )
