"""The backup of the catalogue on a recovery volume: two slots before the label area.

Each holds a header and a content compressed by zlib, under one checksum. A new backup goes to the
slot that the newest one is not in: a power cut leaves that one. Every byte: docs/FORMATS.md. The
bytes may be anybody's: nothing of them is believed before the checksum is right, and what they are
unpacked to is bounded.
"""

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

from dmsnap._native import label as labels
from dmsnap._native.label import Label
from dmsnap.errors import CorruptError, DmsnapError, ForeignDeviceError, NoSpaceError
from dmsnap.extent import Extent
from dmsnap.host.system_call import failure, system_call
from dmsnap.recovery import history
from dmsnap.units import MIB, PAGE_BYTES, align_up, format_size

MAGIC = b"DMSNAPBK"
VERSION = 1
SLOT_BYTES = history.BACKUP_BYTES // 2
MAX_PACKED_BYTES = SLOT_BYTES - PAGE_BYTES
MAX_CONTENT_BYTES = 16 * MIB
LEVEL = 6
MAX_GENERATION = 2**63

# magic, version, zero, sha256, generation, volume, recovery volume, time, packed and whole length
_HEADER = struct.Struct("<8sII32sQ16s16sQII")
_SUM = slice(16, 48)


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that passed every check. ``time_ns`` is when it was written."""

    generation: int
    time_ns: int
    packed_bytes: int
    content: bytes


@dataclass(frozen=True, slots=True)
class _Slot:
    """One of the two, and what is in it: a backup, or why there is none."""

    extent: Extent
    backup: Backup | None
    reason: DmsnapError | None


def extent_of(label: Label, device_bytes: int) -> Extent | None:
    """Where the backup lies on a recovery volume; None: it has no room for one."""
    return history.backup_extent(label, labels.offset(device_bytes))


def read(fd: int, label: Label, device_bytes: int, name: str) -> Backup | None:
    """The newest backup of the volume that ``label`` names; None where there never was one.

    :class:`CorruptError` when there is one and none passes the checks,
    :class:`ForeignDeviceError` when what is there is another volume's.
    """
    extent = extent_of(label, device_bytes)
    if extent is None:
        return None
    found = _slots(fd, label, extent, name)
    best = _newest(found)
    if best is not None:
        return best.backup
    reasons = [slot.reason for slot in found if slot.reason is not None]
    # Of two reasons the one that says more: what is foreign was nobody's here.
    damage = [reason for reason in reasons if isinstance(reason, CorruptError)]
    if reasons:
        raise (damage or reasons)[0]
    return None


def write(
    fd: int, label: Label, device_bytes: int, content: bytes, *, time_ns: int, name: str
) -> Backup | None:
    """Write ``content`` and flush, unless the newest backup says the same; returns what is there.

    None: the recovery volume has no room for one. :class:`NoSpaceError` when the content does not
    fit into a slot: nothing is written then. ``fd`` is held by a writer of the label.
    """
    extent = extent_of(label, device_bytes)
    if extent is None:
        return None
    found = _slots(fd, label, extent, name)
    best = _newest(found)
    if best is not None and best.backup is not None and best.backup.content == content:
        return best.backup
    generation = best.backup.generation + 1 if best and best.backup else 1
    target = found[1] if best is found[0] else found[0]
    slot = encode(label, content, generation=generation, time_ns=time_ns)
    _write_slot(fd, slot, target.extent, name)
    packed_bytes = len(packed(content))
    return Backup(generation, time_ns, packed_bytes, content)


def packed(content: bytes) -> bytes:
    """``content`` as a slot has it; :class:`NoSpaceError` when it does not fit into one."""
    small = zlib.compress(content, LEVEL)
    if len(small) > MAX_PACKED_BYTES or len(content) > MAX_CONTENT_BYTES:
        raise NoSpaceError(
            f"the backup of the catalogue takes {format_size(len(small))}, a slot for it has "
            f"{format_size(MAX_PACKED_BYTES)}"
        )
    return small


def encode(label: Label, content: bytes, *, generation: int, time_ns: int) -> bytes:
    """The bytes of a slot, in whole pages."""
    small = packed(content)
    slot = bytearray(align_up(PAGE_BYTES + len(small), PAGE_BYTES))
    _HEADER.pack_into(
        slot, 0, MAGIC, VERSION, 0, bytes(32), generation, label.volume_uuid.bytes,
        label.recovery_uuid.bytes, time_ns, len(small), len(content),
    )  # fmt: skip
    slot[PAGE_BYTES : PAGE_BYTES + len(small)] = small
    slot[_SUM] = _digest(slot)
    return bytes(slot)


def decode(slot: bytes, label: Label, name: str) -> Backup | None:
    """What a slot holds; None where there is nothing that calls itself a backup.

    :class:`CorruptError` or :class:`ForeignDeviceError` for what is not believed.
    """
    magic, version, zero, checksum, generation, volume, recovery, time_ns, length, whole = (
        _HEADER.unpack_from(slot)
    )
    if magic != MAGIC:
        return None
    if version != VERSION:
        raise _damaged(name, f"it is of version {version}, which this dmsnap does not know")
    if length > min(MAX_PACKED_BYTES, len(slot) - PAGE_BYTES) or whole > MAX_CONTENT_BYTES:
        raise _damaged(name, f"it says that it has {length} bytes, {whole} of them unpacked")
    used = bytearray(slot[: align_up(PAGE_BYTES + length, PAGE_BYTES)])
    used[_SUM] = bytes(32)
    if _digest(used) != checksum:
        raise _damaged(name, "its checksum is wrong")
    if zero or not 0 < generation < MAX_GENERATION or time_ns >= MAX_GENERATION:
        raise _damaged(name, "its header says what no dmsnap writes")
    if (volume, recovery) != (label.volume_uuid.bytes, label.recovery_uuid.bytes):
        raise ForeignDeviceError(
            f"the backup of the catalogue on {name} is of volume {UUID(bytes=volume)} on recovery "
            f"volume {UUID(bytes=recovery)}, not of {label.name}"
        )
    return Backup(
        generation, time_ns, length, _unpacked(slot[PAGE_BYTES : PAGE_BYTES + length], whole, name)
    )


def _digest(slot: bytes | bytearray) -> bytes:
    # Imported where a slot is read or written: it loads all of OpenSSL.
    from hashlib import sha256

    return sha256(slot).digest()


def _unpacked(small: bytes, whole: int, name: str) -> bytes:
    """Never more than what was said: a few bytes may unpack to any number."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(small, whole + 1)
    except zlib.error as error:
        raise _damaged(name, f"it cannot be unpacked: {error}") from error
    if len(content) != whole or not unpacking.eof or unpacking.unused_data:
        raise _damaged(name, f"it does not unpack to the {whole} bytes that it says")
    return content


def _damaged(name: str, reason: str) -> CorruptError:
    return CorruptError(f"the backup of the catalogue on {name} is not used: {reason}")


def _slots(fd: int, label: Label, extent: Extent, name: str) -> list[_Slot]:
    found = []
    for number in range(2):
        part = Extent(extent.offset_bytes + number * SLOT_BYTES, SLOT_BYTES)
        try:
            backup = decode(_read_slot(fd, part, name), label, name)
        except DmsnapError as error:
            found.append(_Slot(part, None, error))
        else:
            found.append(_Slot(part, backup, None))
    return found


def _newest(slots: list[_Slot]) -> _Slot | None:
    whole = [slot for slot in slots if slot.backup is not None]
    return max(whole, key=lambda slot: slot.backup.generation if slot.backup else 0, default=None)


def _read_slot(fd: int, extent: Extent, name: str) -> bytes:
    """Past the page cache: the buffer is aligned, as O_DIRECT wants it."""
    with mmap.mmap(-1, extent.length_bytes) as buffer:
        with system_call(f"read the backup of the catalogue on {name}"):
            done = os.preadv(fd, [buffer], extent.offset_bytes)
        if done != extent.length_bytes:
            raise _damaged(name, f"{done} of {extent.length_bytes} bytes can be read")
        return buffer[:]


def _write_slot(fd: int, slot: bytes, extent: Extent, name: str) -> None:
    action = f"write the backup of the catalogue on {name}"
    with mmap.mmap(-1, len(slot)) as buffer:
        buffer[:] = slot
        with system_call(action):
            done = os.pwritev(fd, [buffer], extent.offset_bytes)
            os.fdatasync(fd)
        if done != len(slot):
            raise failure(action, 0, f"{done} of {len(slot)} bytes were written")
