"""What volumes the host has by now: protected, new, vanished, resized, twins of others.

Judged by UUIDs, and for what is protected by the devices that are recorded. Nothing is protected
and no device is written to by it, though it says what runs will protect; what was there is
remembered in a file of the state directory, so that the next look can say what is new and what has
vanished.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError
from dmsnap.host import inventory, lun, reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.inventory import HostVolume, Unread, VolumeKind
from dmsnap.host.locks import directory_lock
from dmsnap.recovery import replica
from dmsnap.service.configuration import coherence, configuration_check
from dmsnap.service.configuration.declaration import Declarations, NewVolumes, Subclient
from dmsnap.service.resizing import sizes
from dmsnap.service.session import Session
from dmsnap.service.volumes import discovery_record, newcomer
from dmsnap.service.volumes.discovery_record import Seen
from dmsnap.service.volumes.newcomer_obstacle import Obstacle
from dmsnap.snapshot.space import piece_name
from dmsnap.units import format_size

log = logging.getLogger(__name__)

# Its devices, several of one file system, all carry one UUID.
SEVERAL_DEVICES = ("btrfs",)


class Role(StrEnum):
    """What a volume is to dmsnap."""

    PROTECTED = "protected"
    RECOVERY = "recovery"  # a recovery volume, of this host or another
    LEFT_BEHIND = "left-behind"  # a move or a commit went away from it
    UNPROTECTED = "unprotected"


# What such a device is to a volume, in sentences.
PARTS = {
    Role.PROTECTED: "the device of",
    Role.RECOVERY: "the recovery volume of",
    Role.LEFT_BEHIND: "left behind by",
}


@dataclass(frozen=True, slots=True)
class Discovered:
    """A volume of the host. ``volume`` is what dmsnap calls it, or whose part it is.

    ``new``: it was not there at the last look. ``left_out``: by the default sub-client.
    Where that one's policy has runs protect what joins it: ``settled`` is what was the same at the
    last look, ``joins_as`` the name that a run will protect it under, ``by_next_run`` whether
    that is the next, ``obstacle`` why none will, ``tried_ns`` when one last tried.
    """

    device: str
    kind: VolumeKind
    role: Role
    volume: str | None
    identity: str
    fs_type: str
    fs_uuid: str
    size_bytes: int
    mount_points: tuple[str, ...]
    first_seen_ns: int
    new: bool = False
    left_out: bool = False
    label: str = ""
    settled: bool = False
    joins_as: str | None = None
    by_next_run: bool = False
    obstacle: Obstacle | None = None
    tried_ns: int | None = None

    @property
    def joins(self) -> bool:
        """Whether it is one that joins the default sub-client."""
        return self.role is Role.UNPROTECTED and not self.left_out

    @property
    def placed(self) -> str:
        """For sentences, with where it is mounted."""
        where = f", mounted on {self.mount_points[0]}" if self.mount_points else ""
        return f"{self.named}{where}"

    @property
    def named(self) -> str:
        """For sentences."""
        uuid = f", UUID {self.fs_uuid}" if self.fs_uuid else ""
        return f"{self.device} ({self.fs_type}{uuid})"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a look found. ``findings`` are what somebody has to see to, a sentence each.

    ``subclient`` is the default one, which volumes that are not protected join.
    """

    volumes: tuple[Discovered, ...]
    subclient: str | None
    findings: tuple[str, ...]


def discover(session: Session, *, remember: bool = True) -> Discovery:
    """Look at all volumes of the host, and remember them unless told otherwise. Needs root.

    What is on a device that does not answer is remembered as it was.
    """
    declared = configuration_check.require().declared
    recorded = session.catalogue.volumes()
    there, unread = look(recorded, declared)
    directory = session.configuration.state_directory
    with directory_lock(directory):
        before = discovery_record.read(directory)
        found = compared(there, before, now_ns())
        unseen = [each for each in before.values() if is_unread(each, unread)]
        if remember:
            now_known = {each.identity: each for each in (*unseen, *map(seen, found))}
            discovery_record.write(directory, now_known.values())
    found = newcomer.judged(session, declared, found)
    following = newcomer.next_one(found)
    found = [replace(each, by_next_run=each is following) for each in found]
    findings = (
        *lost(recorded),
        *resized(recorded, found, before),
        *vanished(found, before, unread),
        *unanswered(recorded, before, unread),
        *twins(found),
        *unprotected(found, declared),
    )
    return Discovery(tuple(found), coherence.default_of(declared), findings)


def tell(session: Session) -> Discovery | None:
    """Look, and have the journal say what is to be seen to; a look that fails stops nothing."""
    try:
        found = discover(session)
    except DmsnapError as error:
        log.warning("the volumes of the host cannot be looked at: %s", error)
        return None
    for finding in found.findings:
        log.warning("%s", finding)
    return found


def look(
    recorded: Sequence[Volume], declared: Declarations
) -> tuple[list[Discovered], Sequence[Unread]]:
    """The volumes that there are, by device, and the devices that do not answer. Holds no lock."""
    parts = parts_of(recorded)
    there = inventory.take()
    judged = [_judged(each, parts) for each in there.volumes if not is_piece(each)]
    found = [replace(each, left_out=is_left_out(each, declared)) for each in judged]
    return sorted(found, key=lambda each: each.device), there.unread


def compared(found: Sequence[Discovered], before: Mapping[str, Seen], now: int) -> list[Discovered]:
    """With what is known of each since it was first seen."""
    return [_compared(each, before.get(each.identity), now) for each in found]


def _compared(volume: Discovered, earlier: Seen | None, now: int) -> Discovered:
    if earlier is None:
        return replace(volume, first_seen_ns=now, new=True)
    mounted = bool(volume.mount_points)
    settled = (earlier.size_bytes, earlier.mounted) == (volume.size_bytes, mounted)
    first, tried = earlier.first_seen_ns, earlier.tried_ns
    return replace(volume, first_seen_ns=first, settled=settled, tried_ns=tried)


def parts_of(recorded: Sequence[Volume]) -> dict[int, tuple[Role, str]]:
    """The devices that are recorded, by number; what is not there is in nobody's way."""
    found: dict[int, tuple[Role, str]] = {}
    for role in (Role.LEFT_BEHIND, Role.RECOVERY, Role.PROTECTED):  # the last is what counts
        for volume in recorded:
            for name in _named(volume, role):
                device = _probed(name)
                if device is not None:
                    found[device.devno] = (role, volume.name)
    return found


def _named(volume: Volume, role: Role) -> tuple[str | None, ...]:
    if role is Role.PROTECTED:
        return (volume.backing,)
    if role is Role.RECOVERY:
        return (volume.recovery,)
    target = volume.hydration.target if volume.hydration else None
    return (*volume.left_behind, volume.previous_backing, target)


def _probed(name: str | None) -> BlockDevice | None:
    """A recorded device; None when it is gone, as one of no size is, too."""
    if not name:
        return None
    try:
        device = BlockDevice.probe(lun.node(name))
    except DmsnapError:
        return None
    return device if device.size_bytes else None


def is_piece(volume: HostVolume) -> bool:
    """Whether it is a piece of a store, with the content of somebody's volume in it."""
    names = [volume.path.name.rsplit("-dmsnap--", 1)[-1].replace("--", "-")]
    names += [volume.backing_file] if volume.backing_file else []
    return any(piece_name(name) is not None for name in names)


def _judged(volume: HostVolume, parts: Mapping[int, tuple[Role, str]]) -> Discovered:
    role, name = parts.get(volume.devno) or _by_label(volume.path)
    return Discovered(
        device=str(volume.path),
        kind=volume.kind,
        role=role,
        volume=name,
        identity=volume.identity,
        fs_type=volume.fs_type,
        fs_uuid=volume.fs_uuid,
        size_bytes=volume.size_bytes,
        mount_points=volume.mount_points,
        first_seen_ns=0,
        label=volume.label,
    )


def _by_label(path: Path) -> tuple[Role, str | None]:
    """A replica has the file system of its volume; its label says that it is one."""
    try:
        found = replica.read_label(path)
    except DmsnapError as error:
        log.debug("%s has no label: %s", path, error)
        return Role.UNPROTECTED, None
    return (Role.RECOVERY, found.name) if found else (Role.UNPROTECTED, None)


def is_left_out(volume: Discovered, declared: Declarations) -> bool:
    """Whether the default sub-client does without it: by device, mount point or UUID."""
    name = coherence.default_of(declared)
    words = declared.subclient[name].left_out if name else ()
    known_as = {volume.device, volume.fs_uuid, *volume.mount_points} - {""}
    return any(word in known_as or _is_node(word, volume.device) for word in words)


def _is_node(word: str, device: str) -> bool:
    if not word.startswith("/dev/"):
        return False
    try:
        return Path(word).resolve(strict=True) == Path(device).resolve()
    except OSError:
        return False


def seen(volume: Discovered) -> Seen:
    """What is remembered of a volume."""
    return Seen(
        volume.identity, volume.device, volume.size_bytes, volume.first_seen_ns, volume.tried_ns,
        bool(volume.mount_points),
    )  # fmt: skip


# what there is to say


def lost(recorded: Sequence[Volume]) -> Iterator[str]:
    """Devices of protected volumes that are not there."""
    for volume in recorded:
        parts = [("the device", volume.backing), ("the recovery volume", volume.recovery)]
        for what, name in parts:
            if name and _probed(name) is None:
                yield f"{what} of {volume.name} has vanished: {name}"


def resized(
    recorded: Sequence[Volume], found: Sequence[Discovered], before: Mapping[str, Seen]
) -> Iterator[str]:
    """Volumes with another size than they had: of those protected, than they are recorded with."""
    for volume in recorded:
        other = sizes.of_volume(volume)
        if other is not None:
            yield other.sentence
    for each in found:
        known = before.get(each.identity)
        if each.role is Role.UNPROTECTED and known and known.size_bytes != each.size_bytes:
            sizes_now = f"{format_size(known.size_bytes)} to {format_size(each.size_bytes)}"
            yield f"{each.named} was resized since the last look, from {sizes_now}"


def vanished(
    found: Sequence[Discovered], before: Mapping[str, Seen], unread: Sequence[Unread] = ()
) -> Iterator[str]:
    """What was there at the last look, and nowhere on the host is now."""
    for identity in sorted(before.keys() - {each.identity for each in found}):
        if not is_unread(before[identity], unread):
            yield f"{before[identity].device} ({identity}) has vanished since the last look"


def is_unread(earlier: Seen, unread: Sequence[Unread]) -> bool:
    """Whether a volume may still be there, on a device that does not answer."""
    return any(each.may_be(earlier.identity, earlier.device) for each in unread)


def unanswered(
    recorded: Sequence[Volume], before: Mapping[str, Seen], unread: Sequence[Unread]
) -> Iterator[str]:
    """Devices that nobody can look at. One that is suspended, and was no volume, is nobody's."""
    parts = parts_of(recorded)
    for each in unread:
        role, name = parts.get(each.devno, (None, None))
        known = any(each.may_be(seen.identity, seen.device) for seen in before.values())
        if each.suspended and not known and role is None:
            continue
        whose = f" ({PARTS[role]} {name})" if role in PARTS else ""
        hangs = "is suspended" if each.suspended else reach.HANGS
        yield f"{each.path}{whose} {hangs}; what is on it was not looked at"


def twins(found: Sequence[Discovered]) -> Iterator[str]:
    """File systems with one UUID on several devices, where neither is known for a copy.

    Which is mounted by UUID is up to chance then, and which is meant nobody can tell.
    """
    by_uuid = defaultdict(list)
    for each in found:
        known = each.role in (Role.RECOVERY, Role.LEFT_BEHIND)
        if each.fs_uuid and not known and each.fs_type not in SEVERAL_DEVICES:
            by_uuid[each.fs_uuid].append(each)
    for uuid, same in sorted(by_uuid.items()):
        if len(same) > 1:
            devices = " and ".join(each.device for each in same)
            # Nothing but a disk's own identity says so: partitions and LVs have one each.
            alike = len({each.identity for each in same}) == 1 and "@wwid:" in same[0].identity
            what = "they are paths to one disk" if alike else "one is a copy of the other"
            yield f"{devices} carry the same file system UUID {uuid}: {what}"


def unprotected(found: Sequence[Discovered], declared: Declarations) -> Iterator[str]:
    """Volumes that the default sub-client's policy wants told of; without one, none."""
    name = coherence.default_of(declared)
    if name is None:
        return
    joining = [each for each in found if each.joins]
    if coherence.protects_new(declared):
        sentences = (newcomer.sentence(each, declared) for each in joining)
        yield from (each for each in sentences if each is not None)
    elif wants_report(declared, declared.subclient[name]):
        for each in joining:
            yield (
                f"{each.placed} is not protected: dmsnap protect {each.device}, or leave it "
                f"out of the sub-client {name}"
            )


def wants_report(declared: Declarations, subclient: Subclient) -> bool:
    """Whether new volumes are told of; a default sub-client without a policy is there for that."""
    policy = declared.policy.get(subclient.policy or "")
    return policy is None or policy.new_volumes is NewVolumes.REPORT
