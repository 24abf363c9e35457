"""Giving a device back to the pool that offers it, when a volume leaves it."""

import logging
from dataclasses import replace

from dmsnap._native.label import LabelState
from dmsnap.catalogue.model import Volume
from dmsnap.errors import ConfigurationError, DmsnapError, ForeignDeviceError
from dmsnap.host import lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import lease, remains, replica
from dmsnap.service.configuration import configuration
from dmsnap.service.pools import pool
from dmsnap.service.session import Session
from dmsnap.service.volumes import identity

log = logging.getLogger(__name__)


def pools_of(session: Session, device: str | None) -> tuple[str, ...]:
    """The pools that offer a recorded device. What is given up must not fail by a table."""
    try:
        if not device or not configuration.declares(session.configuration.iscsi_secrets, "pool"):
            return ()
        declared = pool.declared_pools()
    except ConfigurationError as error:
        log.warning("%s goes back to no pool, as none can be read: %s", device, error)
        return ()
    return tuple(
        name
        for name, offered in declared.items()
        if any(pool.is_same(each, device) for each in offered.volumes)
    )


def note(session: Session, volume: Volume, device: str) -> None:
    """Record what a volume leaves on a device, before its label goes: whoever comes after a crash
    in between does both again.
    """
    try:
        found = BlockDevice.probe(lun.node(device))
        content = signature.probe(found.path)
        # Another file system than the volume's was made there meanwhile, by somebody.
        ours = not identity.is_foreign(volume, content)
        seen = ours and remains.note(session.catalogue, device, found, content, volume.name)
    except DmsnapError as error:
        log.warning("%s is not offered again: %s", device, error)
        return
    if content is not None and not seen:
        log.warning(
            "%s holds %s, of which nobody could tell later whether it was used: it is offered "
            "again once that is wiped (wipefs -a)",
            device,
            content,
        )


def leave(session: Session, volume: Volume, device: str, *, offer: bool) -> None:
    """Have a device that the volume does not lie on any more carry no label of it. With ``offer``
    it goes back to the pools that have it: that is asked for right when it is left.
    """
    others = [each for each in session.catalogue.volumes() if each.id != volume.id]
    # What failback would lead to may be just what is left.
    staying = replace(volume, previous_backing=None)
    taken = list(pool.recorded_uses([*others, staying]))
    if any(pool.is_same(device, recorded) for recorded, _ in taken):
        return
    try:
        identity.require_led_to(volume, device, BlockDevice.probe(lun.node(device)))
    except ForeignDeviceError as error:
        log.warning("%s is left as it is, and offered to nobody: %s", device, error)
        return
    offered = offer and bool(pools_of(session, device))
    if offered:
        note(session, volume, device)
    path = lun.node(device)
    label = replica.read_label(path)
    if label is None or label.state is not LabelState.PRIMARY or not lease.is_ours(label):
        return
    known = label.volume_uuid in [each.id for each in others]
    if label.volume_uuid == volume.id or (offered and not known):
        replica.wipe_label(path)
