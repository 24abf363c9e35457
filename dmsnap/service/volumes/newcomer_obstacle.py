"""Why runs do not protect a volume by themselves: what is in the way, looked for in one order.

Nobody is asked before. So it is only what can be protected without taking it from those who use
it, what certainly is the volume it seems to be, and nothing that the host or dmsnap stands on.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap._native import label
from dmsnap.catalogue import removed
from dmsnap.catalogue.clock import format_time
from dmsnap.catalogue.model import IdentifierKind
from dmsnap.errors import DmsnapError
from dmsnap.host import blockdev, fstab, lun
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.inventory import VolumeKind
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery import history, replica
from dmsnap.service.configuration.coherence import default_of
from dmsnap.service.configuration.declaration import Declarations
from dmsnap.service.pools import pool
from dmsnap.service.pools.pool import PoolDevice, Standing
from dmsnap.service.session import Session
from dmsnap.service.volumes import live_admission
from dmsnap.service.volumes.newcomer_name import lv_of
from dmsnap.snapshot.space import open_space
from dmsnap.units import format_size

if TYPE_CHECKING:
    from dmsnap.service.volumes.discovery import Discovered

log = logging.getLogger(__name__)

# What hosts boot from and media carry has others; cluster file systems are other hosts', too.
FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
# Mounted in every moment of the host's life, or by what boots it.
HOSTS_OWN = ("/", "/boot", "/boot/efi", "/efi", "/usr", "/etc")
OWN_LV = "dmsnap-"
# Opened LUKS devices, multipath disks and their partitions: these are there again after a boot.
_LASTING = re.compile(r"CRYPT-LUKS|(part\d+-)?mpath-")
# How a device's own identity begins (``inventory.holder_of``), and how the catalogue has it.
_HOLDERS = {
    "lv": (IdentifierKind.LV_UUID, ""),
    "wwid": (IdentifierKind.WWID, ""),
    "part": (IdentifierKind.LINK, "/dev/disk/by-partuuid/"),
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why runs leave a volume alone, as the second half of a sentence.

    ``by_hand``: whoever knows better can protect it.
    """

    reason: str
    by_hand: bool = True


@dataclass
class Judge:
    """What is looked up once for all volumes, and what is asked of each."""

    session: Session
    declared: Declarations
    found: Sequence["Discovered"]

    def obstacle(self, volume: "Discovered") -> Obstacle | None:
        """The first thing that is in the way. What cannot be looked at is left alone, too."""
        try:
            device = BlockDevice.probe(Path(volume.device))
            return next(self._obstacles(volume, device), None)
        except (DmsnapError, OSError) as error:
            return Obstacle(f"it cannot be looked at: {error}", by_hand=False)

    def _obstacles(self, volume: "Discovered", device: BlockDevice) -> Iterator[Obstacle]:
        yield from self._of_past(volume)
        yield from self._of_content(volume, device)
        yield from self._of_host(volume, device)
        yield from self._of_own(device)
        yield from self._of_place(volume, device)
        yield from self._of_use(volume, device)
        yield from self._of_pool(device)

    def _of_past(self, volume: "Discovered") -> Iterator[Obstacle]:
        last = removed.last(self.session.catalogue, volume.fs_uuid, _known_as(volume.identity))
        if last is not None:
            when = format_time(last.removed_ns)
            yield Obstacle(f"it was unprotected as {last.name} at {when}")

    def _of_content(self, volume: "Discovered", device: BlockDevice) -> Iterator[Obstacle]:
        if volume.fs_type not in FILE_SYSTEMS:
            kinds = ", ".join(FILE_SYSTEMS)
            yield Obstacle(f"it holds {volume.fs_type}, and they protect {kinds} alone")
        if not volume.fs_uuid:
            yield Obstacle("it has no UUID by which it would be known again")
        twins = [
            each.device
            for each in self.found
            if each.fs_uuid == volume.fs_uuid and each.device != volume.device
        ]
        if twins:
            yield Obstacle(f"{' and '.join(twins)} carry the same file system UUID", by_hand=False)
        # A label that is there makes it no newcomer; one that is damaged is read here, and raises.
        if replica.read_label(device.path) is not None:
            yield Obstacle("it carries a label of dmsnap's", by_hand=False)

    def _of_place(self, volume: "Discovered", device: BlockDevice) -> Iterator[Obstacle]:
        if volume.kind is VolumeKind.LOOP:
            yield Obstacle("it is a loop device, and may be another after the next boot")
        if volume.kind is VolumeKind.LOGICAL_VOLUME and lv_of(volume.device).startswith(OWN_LV):
            yield Obstacle("it has the name of what dmsnap makes", by_hand=False)
        if volume.kind is VolumeKind.DM and not _LASTING.match(SYSFS.dm_uuid(device.devno) or ""):
            yield Obstacle("it is a dm device of which they do not know who makes it")
        if any(SYSFS.integer(disk, "removable") for disk in blockdev.disks_below(device.devno)):
            yield Obstacle("it lies on a disk that can be taken out")

    def _of_host(self, volume: "Discovered", device: BlockDevice) -> Iterator[Obstacle]:
        settings = self.session.configuration
        paths = [*map(Path, HOSTS_OWN), settings.state_directory, settings.run_directory]
        for path in paths:
            if path.exists() and blockdev.file_depends_on(path, device.devno):
                yield Obstacle(f"{path} lies on it", by_hand=False)
        for entry in fstab.entries():
            if entry.mount_point in HOSTS_OWN and _is_meant(entry.spec, volume, device):
                yield Obstacle(f"fstab mounts it on {entry.mount_point}", by_hand=False)

    def _of_own(self, device: BlockDevice) -> Iterator[Obstacle]:
        for devno, store in self._stores:
            if blockdev.depends_on(devno, device.devno):
                yield Obstacle(f"the store {store} lies on it", by_hand=False)
        for devno, offered in self._offered:
            if devno == device.devno:
                yield Obstacle(f"{offered} offers it", by_hand=False)
            elif blockdev.depends_on(devno, device.devno):
                yield Obstacle(f"what {offered} offers lies on it", by_hand=False)
            elif blockdev.depends_on(device.devno, devno):
                yield Obstacle(f"it lies on what {offered} offers", by_hand=False)

    def _of_use(self, volume: "Discovered", device: BlockDevice) -> Iterator[Obstacle]:
        if not volume.mount_points:
            users = blockdev.describe_users_of(device.devno)
            if users:
                yield Obstacle(f"it is in use: {users}")
        elif volume.kind is not VolumeKind.LOGICAL_VOLUME:
            yield Obstacle("it is mounted and no logical volume, and would have to be unmounted")
        else:
            try:
                live_admission.admit(self.session, device)
            except DmsnapError as error:
                yield Obstacle(f"it would have to be unmounted ({error})")

    def _of_pool(self, device: BlockDevice) -> Iterator[Obstacle]:
        needed = history.needed_device_bytes(device.size_bytes, label.AREA_BYTES)
        if any(each.state is Standing.UNSEEN for each in self._pool):
            return  # what it has nobody can know before it is logged in to
        sizes = [each.size_bytes or 0 for each in self._pool if each.state is Standing.FREE]
        if not sizes:
            yield Obstacle(f"the pool {self._pool_name} has nothing that is free")
        elif max(sizes) < needed:
            yield Obstacle(
                f"it needs {format_size(needed)}, and the largest that the pool "
                f"{self._pool_name} has free has {format_size(max(sizes))}"
            )

    @cached_property
    def _pool_name(self) -> str:
        subclient = self.declared.subclient[default_of(self.declared) or ""]
        return self.declared.policy[subclient.policy or ""].pool or ""

    @cached_property
    def _pool(self) -> list[PoolDevice]:
        offered = pool.declared_pool(self.declared.pool, self._pool_name)
        return pool.survey(self.session, self._pool_name, offered.volumes)

    @cached_property
    def _stores(self) -> list[tuple[int, str]]:
        """The devices of stores that are set, declared or used."""
        names = {self.session.configuration.default_store}
        names |= {str(each.directory or each.volume_group) for each in self.declared.store.values()}
        names |= {each.store for each in self.session.catalogue.volumes()}
        return [(devno, name) for name in sorted(names) for devno in _devices_of(name)]

    @cached_property
    def _offered(self) -> list[tuple[int, str]]:
        """What any pool offers, as far as it is there."""
        pools = {name: each.volumes for name, each in self.declared.pool.items()}
        return list(_devices_offered(pools))


def _known_as(identity: str) -> list[tuple[IdentifierKind, str]]:
    """By what the catalogue would know the device, of an identity of the inventory."""
    kind, colon, value = identity.partition("@")[2].partition(":")
    if not colon or kind not in _HOLDERS:
        return []
    name, place = _HOLDERS[kind]
    return [(name, f"{place}{value}")]


def _is_meant(spec: str, volume: "Discovered", device: BlockDevice) -> bool:
    """Whether a line of fstab means the volume: by its device, or by what is on it."""
    if fstab.devno_of(spec) == device.devno:
        return True
    by_content = {f"UUID={volume.fs_uuid}", f"LABEL={volume.label}"} - {"UUID=", "LABEL="}
    return spec in by_content


def _devices_of(store: str) -> list[int]:
    """Of one that is not there, none."""
    try:
        return open_space(store).devices()
    except (DmsnapError, OSError) as error:
        log.debug("the store %s is not there: %s", store, error)
        return []


def _devices_offered(pools: Mapping[str, Sequence[str]]) -> Iterator[tuple[int, str]]:
    for name, volumes in pools.items():
        for each in volumes:
            try:
                yield BlockDevice.probe(lun.node(each)).devno, f"the pool {name}"
            except (DmsnapError, OSError) as error:
                log.debug("%s of the pool %s is not there: %s", each, name, error)
