"""A volume's replica, opened for an operation: the device, its label, and the checks of both."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from dmsnap._native import copy, label, store_check
from dmsnap._native.label import HistoryEntry, Label, LabelState, LabelTwin
from dmsnap.catalogue.model import Volume
from dmsnap.errors import CorruptError, ForeignDeviceError, NotThisFormatError, WrongStateError
from dmsnap.host import lun, reach, signature
from dmsnap.host.blockdev import BlockDevice, holders, open_exclusive, open_shared
from dmsnap.recovery import history, lease
from dmsnap.snapshot import stack


class Replica:
    """The open recovery volume of one volume. Made by :func:`opened`.

    ``bytes_written`` is what labels took, and what was wiped of them.
    """

    def __init__(
        self, device: BlockDevice, fd: int, current: Label, volume: Volume | None = None
    ) -> None:
        self.device = device
        self.fd = fd
        self.label = current
        self.volume = volume
        self.bytes_written = 0

    def write_label(self, new: Label) -> None:
        """Write ``new`` with this host's lease and flush; it is the truth from then on.

        :class:`ForeignDeviceError` when another host took the recovery volume over meanwhile.
        """
        self.require_still_ours()
        if self.volume is not None:
            new = lease.stamped(new, self.volume)
        self.label = label.write(self.fd, self.device.size_bytes, new, str(self.device.path))
        reach.note_heard(self.device.devno)
        self.bytes_written += label.AREA_BYTES

    def require_still_ours(self) -> None:
        """Raise when another host has written the label since it was read or written here.

        A host that hung in a sync, and was given up, comes back in the middle of it.
        """
        try:
            found = label.read(self.fd, self.device.size_bytes, str(self.device.path))
        except (NotThisFormatError, CorruptError):  # none yet, or nobody's any more
            return
        same = (found.volume_uuid, found.recovery_uuid) == (
            self.label.volume_uuid,
            self.label.recovery_uuid,
        )
        if same and found.generation > self.label.generation:
            lease.require_ours(self.device.path, found)

    def require_consistent(self) -> None:
        """Raise unless the replica is a point, byte for byte."""
        if self.label.state is not LabelState.CONSISTENT:
            raise WrongStateError(
                f"the recovery volume {self.device.path} holds no point: it is "
                f"{self.label.state.name.lower()}",
                state=self.label.state.name.lower(),
            )

    def settle(self) -> None:
        """Roll back what an interrupted sync left."""
        if self.label.state is LabelState.APPLYING:
            self.roll_back()

    def roll_back(self) -> None:
        """Go one step back for good: undo an apply, whether it was interrupted or finished.

        Idempotent: the undo store stays in the label until the replica is the old point again.
        :class:`CorruptError` where the store is not what was written: nothing of it is, and the
        label says that the replica is no point.
        """
        self.require_still_ours()
        self.leave_point()
        entry = undo_entry(self.device.path, self.label)
        store_check.require_sealed(
            self.fd,
            entry.store_offset_bytes,
            entry.store_length_bytes,
            data=True,
            name=store_name(self.device.path, entry),
        )
        copy.roll_back(
            self.fd,
            entry.store_offset_bytes,
            entry.store_length_bytes,
            self.fd,
            self.label.size_bytes,
            name=str(self.device.path),
        )
        self.write_label(settled(self.device.path, self.label))

    def leave_point(self) -> None:
        """Have the label say that the replica is no point, and is to go one step back."""
        entry = undo_entry(self.device.path, self.label)
        if self.label.state is not LabelState.APPLYING:
            self.write_label(
                replace(
                    self.label,
                    state=LabelState.APPLYING,
                    point_uuid=entry.point_uuid,
                    point_time_ns=entry.point_time_ns,
                    next_point_uuid=self.label.point_uuid,
                    next_point_time_ns=self.label.point_time_ns,
                )
            )


def store_name(path: Path, entry: HistoryEntry) -> str:
    """What an undo store is called in errors."""
    return f"the undo store of point {entry.point_uuid} on {path}"


def settled(path: Path, current: Label) -> Label:
    """A label once what an interrupted sync left is rolled back; itself where nothing was left."""
    if current.state is not LabelState.APPLYING:
        return current
    return replace(
        current,
        state=LabelState.CONSISTENT,
        flags=undo_entry(path, current).flags,
        next_point_uuid=None,
        next_point_time_ns=0,
        history=current.history[1:],
    )


def undo_entry(path: Path, current: Label) -> HistoryEntry:
    """The undo store that leads one step back, else :class:`CorruptError`."""
    if not current.history:
        raise CorruptError(
            f"the label of {path} says {current.state.name.lower()}, and names no undo store to go "
            f"back by"
        )
    return current.history[0]


def recovery_path(volume: Volume) -> Path:
    """The recovery volume's device, else :class:`WrongStateError`."""
    if volume.recovery is None:
        raise _without(volume)
    return lun.node(volume.recovery)


def require_one(volume: Volume) -> None:
    """Raise :class:`WrongStateError` for a volume without a recovery volume."""
    if volume.recovery is None:
        raise _without(volume)


def _without(volume: Volume) -> WrongStateError:
    return WrongStateError(f"{volume.name} has no recovery volume", hint=way_to_another(volume))


def way_to_another(volume: Volume) -> str:
    """What gives a volume a recovery volume again, as a part of a sentence."""
    attach = f"dmsnap attach {volume.name} --recovery DEVICE gives it a new one while it serves"
    former = volume.previous_backing
    if former is None or not lun.is_present(former):
        return attach
    return f"dmsnap failback {volume.name} goes back to the former device {former}, {attach}"


def is_of_primary(current: Label | None, volume: Volume) -> bool:
    """Whether a label is one that a volume's own device keeps: it was its recovery volume."""
    return (
        current is not None
        and current.state is LabelState.PRIMARY
        and current.volume_uuid == volume.id
        and current.size_bytes == volume.size_bytes
    )


def _read(fd: int, device: BlockDevice, volume: Volume) -> Label:
    try:
        return label.read(fd, device.size_bytes, str(device.path))
    except NotThisFormatError as error:
        raise _missing(volume, device.path) from error


def _missing(volume: Volume, path: Path) -> CorruptError:
    return CorruptError(
        f"{path} carries no label, it should be the recovery volume of {volume.name}",
        hint=f"if it was made larger, dmsnap resize {volume.name} finds its label",
    )


@contextmanager
def opened(volume: Volume, *, write: bool = True) -> Iterator[Replica]:
    """The recovery volume, opened O_EXCL, its label checked against ``volume``.

    To be written to, it must be this host's, and a label of which only one sector is left, or
    that was written in turn, is written to both.
    """
    path = recovery_path(volume)
    device = BlockDevice.probe(path)
    with open_exclusive(path, write=write) as fd:
        current = _read(fd, device, volume)
        check_identity(volume, device, current)
        found = Replica(device, fd, current, volume)
        if write:
            require_usable(path, current)
            if current.twin is not LabelTwin.SAME:
                found.write_label(current)
        yield found


@contextmanager
def opened_below_stack(volume: Volume) -> Iterator[Replica]:
    """The recovery volume while the volume's own dm devices hold it, and nobody else.

    O_EXCL cannot be had then: what holds it is checked by UUID instead.
    """
    path = recovery_path(volume)
    device = BlockDevice.probe(path)
    stack.require_held_by(volume, device)
    with open_shared(path, write=True) as fd:
        current = _read(fd, device, volume)
        check_identity(volume, device, current)
        require_usable(path, current)
        yield Replica(device, fd, current, volume)


@contextmanager
def opened_for_label(volume: Volume) -> Iterator[Replica]:
    """The recovery volume, whose label alone will be written: our own devices may lie on it."""
    device = BlockDevice.probe(recovery_path(volume))
    held = bool(holders(device.devno))
    with opened_below_stack(volume) if held else opened(volume) as found:
        yield found


def require_changeable(volume: Volume) -> None:
    """Raise unless the replica and its history could be written to now; writes nothing."""
    with opened(volume, write=False) as current:
        require_usable(current.device.path, current.label)


def require_usable(path: Path, current: Label) -> None:
    """Raise unless the label can be believed and no other host claims the recovery volume."""
    lease.require_trusted(path, current)
    lease.require_ours(path, current)


def take_over(volume: Volume) -> None:
    """Make the recovery volume this host's, whoever claims it."""
    path = recovery_path(volume)
    device = BlockDevice.probe(path)
    with open_exclusive(path, write=True) as fd:
        current = _read(fd, device, volume)
        check_identity(volume, device, current)
        lease.require_trusted(path, current)
        Replica(device, fd, current, volume).write_label(current)


def release(volume: Volume) -> None:
    """Let any host take the recovery volume from now on; nothing is written where any may."""
    with opened(volume) as current:
        if current.label.host_uuid is None:
            return
        new = lease.released(lease.stamped(current.label, volume))
        label.write(current.fd, current.device.size_bytes, new, str(current.device.path))


def read_label(path: Path) -> Label | None:
    """The label of any device, or None where there is none. Needs read access only."""
    device = BlockDevice.probe(path)
    with open_shared(path) as fd:
        try:
            found = label.read(fd, device.size_bytes, str(path))
        except NotThisFormatError:
            return None
    reach.note_heard(device.devno)
    return found


def wipe_label(path: Path) -> None:
    """Have a device carry no label any more; what lies before it stays."""
    device = BlockDevice.probe(path)
    with open_exclusive(device.path, write=True) as fd:
        label.wipe(fd, device.size_bytes, str(device.path))


def make_blank(path: Path) -> None:
    """Have nothing be found any more on a device that is to be written over.

    A label goes first: it would say that points are there, of which the first bytes are not.
    """
    if read_label(path) is not None:
        wipe_label(path)
    signature.wipe(path)


def label_of(volume: Volume) -> Label:
    """The checked label of a volume's recovery volume, read beside whoever uses it."""
    path = recovery_path(volume)
    current = read_label(path)
    if current is None:
        raise _missing(volume, path)
    check_identity(volume, BlockDevice.probe(path), current)
    return current


def check_identity(volume: Volume, device: BlockDevice, current: Label) -> None:
    """Raise :class:`ForeignDeviceError` unless the label names this volume and this device."""
    if current.volume_uuid != volume.id:
        raise ForeignDeviceError(
            f"{device.path} is the recovery volume of {current.name} "
            f"({current.volume_uuid}), not of {volume.name} ({volume.id})"
        )
    if current.recovery_uuid != volume.recovery_id:
        raise ForeignDeviceError(
            f"{device.path} is recovery volume {current.recovery_uuid}, expected "
            f"{volume.recovery_id}"
        )
    if current.size_bytes != volume.size_bytes:
        raise ForeignDeviceError(
            f"the replica on {device.path} has {current.size_bytes} bytes, {volume.name} has "
            f"{volume.size_bytes}"
        )


def holds(current: Label, point_id: UUID) -> bool:
    """Whether a point can be recovered from this recovery volume."""
    if current.state is not LabelState.CONSISTENT:
        return False
    return current.point_uuid == point_id or any(
        entry.point_uuid == point_id for entry in current.history
    )


def require_settled(volume: Volume, current: Label, point_id: UUID) -> None:
    """Raise while a point of the label can be neither used nor given up: a sync was cut off."""
    states = (LabelState.APPLYING, LabelState.MERGING)
    if current.state in states and history.position_of(current, point_id) is not None:
        raise WrongStateError(
            f"the recovery volume {volume.recovery} is {current.state.name.lower()}: what became "
            f"of point {point_id} is open",
            hint=f"dmsnap sync {volume.name} repairs it",
        )
