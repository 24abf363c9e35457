"""What there is of a volume without a catalogue: its label, its live stack and its store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from dmsnap._native.label import Label
from dmsnap.catalogue.model import Area, AreaRole, Volume
from dmsnap.errors import DmsnapError, WrongStateError
from dmsnap.host import lun, lvm
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery.search import Labelled
from dmsnap.service.records.backup import NOTHING, Recalled
from dmsnap.service.volumes import admission
from dmsnap.snapshot.space import open_space, piece_name
from dmsnap.snapshot.survey import LiveStack


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one volume: the stack that lives, the recovery volume that was found, or one of them.

    ``recalled`` is what that recovery volume says of the past.
    """

    live: LiveStack | None
    found: Labelled | None
    recalled: Recalled = NOTHING

    @property
    def label(self) -> Label | None:
        return self.found.label if self.found else None

    @property
    def volume_id(self) -> UUID:
        if self.live is not None:
            return self.live.volume_id
        assert self.found is not None  # noqa: S101 - there is one of the two
        return self.found.label.volume_uuid

    @property
    def name(self) -> str:
        if self.live is not None:
            return self.live.name
        assert self.found is not None  # noqa: S101 - there is one of the two
        return self.found.label.name

    @property
    def point_ids(self) -> list[UUID]:
        """Every point that is known by more than its first digits."""
        past = self.recalled.excerpt
        return [*ids_in(self.label), *(past.point_ids if past else [])]


# where things lie


def stable_name(devno: int, recorded: str = "") -> str:
    """As ``stable_path``, but a LUN is named by its target, as ``protect`` has it.

    dmsnap logs in by that name, and the boot waits for the network.
    """
    if recorded and leads_to(recorded, devno):
        return recorded
    found = lun.name_of(devno)
    return str(found) if found else stable_path(devno)


def stable_path(devno: int) -> str:
    """A path of a device that holds after a reboot, where there is one."""
    return admission.stable_path(dm.path_by_devno(devno))


def leads_to(path: str, devno: int) -> bool:
    try:
        return BlockDevice.probe(lun.node(path)).devno == devno
    except DmsnapError:
        return False


def piece_path(devno: int) -> str | None:
    """The path of the piece of a store that a device is: its file, or its logical volume."""
    file = SYSFS.loop_backing_file(devno)
    if file is not None:
        return file
    for volume in lvm.list_lvs():
        if leads_to(str(volume.path), devno):
            return str(volume.path)
    return None


def store_of(path: str) -> str:
    """The store that a piece lies in: a directory, or a volume group."""
    parent = Path(path).parent
    return str(parent) if path.endswith(".img") else parent.name


def whole_id(digits: str, known: Sequence[UUID]) -> UUID:
    """The point whose id begins with ``digits``; of one that nobody knows, the rest is zeroes."""
    for point_id in known:
        if point_id.hex.startswith(digits):
            return point_id
    return UUID(hex=digits.ljust(32, "0"))


def ids_in(label: Label | None) -> list[UUID]:
    """The points of a label, the newest first: its place is how many steps back each is."""
    if label is None or label.point_uuid is None:
        return []
    return [label.point_uuid, *(entry.point_uuid for entry in label.history)]


# pieces of the store


def is_now(area: Area, volume: Volume, role: AreaRole) -> bool:
    return area.role is role and area.generation == volume.generation


def areas_of(evidence: Evidence, volume: Volume, metadata: str | None) -> Iterator[Area]:
    """Every piece of the store that is the volume's: what is in use, and what was left."""
    ids = evidence.point_ids
    used = used_pieces(evidence, metadata)
    for path, size_bytes in open_space(volume.store).pieces():
        name = piece_name(path)
        if name is None or name.volume != volume.name:
            continue
        generation = name.generation or used_generation(evidence, path, metadata)
        if evidence.live is not None and path == metadata:
            generation = evidence.live.generation
        digits = used.get(path) or name.point
        point_id = whole_id(digits, ids) if digits else None
        yield Area(uuid4(), volume.id, name.role, generation, path, size_bytes, point_id)


def used_pieces(evidence: Evidence, metadata: str | None) -> dict[str, str]:
    """The stores of points that live, or are mounted, with the first digits of each."""
    if evidence.live is None or metadata is None:
        return {}
    snapshots = {**evidence.live.stores, **evidence.live.overlays}
    paths = {digits: piece_path(target.cow) for digits, target in snapshots.items()}
    return {path: digits for digits, path in paths.items() if path}


def used_generation(evidence: Evidence, path: str, metadata: str | None) -> int:
    """Of a piece whose name does not say it: the present one if it is in use, else the one before.

    Without a stack the present one is the first.
    """
    live = evidence.live
    if live is None:
        return 1
    former = piece_name(path)
    is_metadata = former is not None and former.role is AreaRole.ERA_METADATA
    return live.generation - 1 if is_metadata and path != metadata else live.generation


def generation_of(evidence: Evidence, areas: Sequence[Area]) -> int:
    """The stack's; without one that of the newest era metadata, which a trial makes last."""
    if evidence.live is not None:
        return evidence.live.generation
    made = [area.generation for area in areas if area.role is AreaRole.ERA_METADATA]
    if not made:
        raise WrongStateError(
            f"the store holds no era metadata of {evidence.name}",
            hint="dmsnap swap --from-label recovers it, or protect it again",
        )
    return max(made)
