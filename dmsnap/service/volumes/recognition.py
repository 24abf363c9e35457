"""How applications recognise a volume's data, recorded while its device is there to be asked."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from dmsnap.catalogue import identity
from dmsnap.catalogue.model import Identifier, IdentifierKind, MountRecord, Volume, VolumeState
from dmsnap.errors import DmsnapError, NotFoundError, UnreachableError
from dmsnap.host import identifiers, lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.service.session import Session
from dmsnap.service.volumes.identity import note_backing
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recognised:
    """What is recorded of a volume's identity; ``device`` may be the name of a LUN."""

    volume: str
    id: UUID
    state: VolumeState
    created_ns: int
    device: str
    recovery: str | None
    recovery_id: UUID | None
    size_bytes: int
    fs_type: str
    fs_uuid: str
    mounts: tuple[MountRecord, ...]
    units: tuple[str, ...]
    identifiers: tuple[Identifier, ...]
    joined: bool = False


def recorded(session: Session, name: str) -> Recognised:
    """What the catalogue has of a volume. No device is looked at."""
    volume = session.catalogue.volume(name)
    return Recognised(
        volume=volume.name,
        id=volume.id,
        state=volume.state,
        created_ns=volume.created_ns,
        device=volume.backing,
        recovery=volume.recovery,
        recovery_id=volume.recovery_id,
        size_bytes=volume.size_bytes,
        fs_type=volume.fs_type,
        fs_uuid=volume.fs_uuid,
        mounts=volume.mounts,
        units=volume.units,
        identifiers=tuple(identity.identifiers(session.catalogue, volume.id)),
        joined=volume.joined,
    )


def note(session: Session, volume: Volume) -> None:
    """Record by what the volume's device and its front are known now, and which device it is; fails
    on no device.

    One that is away is asked again the next time. Any other reason is told: it would be so again,
    and what is recorded would grow old unnoticed.
    """
    try:
        found = list(seen(volume))
    except (NotFoundError, UnreachableError, FileNotFoundError) as error:
        log.debug("by what %s is known is not recorded: %s", volume.name, error)
    except (DmsnapError, OSError) as error:
        log.warning("by what %s is known is not recorded: %s", volume.name, error)
    else:
        identity.record(session.catalogue, volume.id, found)
        note_backing(session, volume)


def seen(volume: Volume) -> Iterator[tuple[IdentifierKind, str]]:
    """What names the device below the front, and the front where it is there."""
    device = BlockDevice.probe(lun.node(volume.backing))
    front = dm.info(uuid=stack.front(volume).uuid)
    for link in identifiers.links_to([device.devno, *([front.devno] if front else [])]):
        yield IdentifierKind.LINK, link
    uuids = identifiers.lvm_uuids(device.devno)
    if uuids is not None:
        yield IdentifierKind.LV_UUID, uuids[0]
        yield IdentifierKind.VG_UUID, uuids[1]
    wwid = identifiers.wwid(device.devno)
    if wwid is not None:
        yield IdentifierKind.WWID, wwid
