"""Will it boot: whether each volume will be there after a restart. Changes nothing."""

import configparser
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import BusyError, DmsnapError, NotFoundError
from dmsnap.host import blockdev, capability, fstab, lun, mountinfo, replacement, systemd
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.service.health import boot
from dmsnap.service.health.finding import Check, Level
from dmsnap.snapshot import stack

TWIN_RULES = ("64-2-dmsnap-twins.rules", "95-dmsnap-twins.rules")
INSTALL = "run make install"
PROGRAM = Path(sys.prefix)
NETWORK_TYPES = ("nfs", "nfs4", "cifs", "ceph", "glusterfs")
# The kernel numbers these in the order in which it finds them.
NUMBERED = tuple(
    f"/dev/{name}" for name in ("dm-", "loop", "mmcblk", "nbd", "nvme", "sd", "vd", "xvd")
)


def host_checks(
    units: Collection[Path], rules: Collection[Path], *, with_systemd: bool
) -> Iterator[Check]:
    """What every volume needs at boot."""
    name = "boot"
    if not with_systemd:
        yield Check(
            name,
            Level.WARNING,
            "systemd is not the init: nothing builds the stacks at boot",
            "have dmsnap assemble --all --boot run before local file systems are mounted",
        )
        return
    obstacles = list(_host_obstacles(units, rules))
    for sentence, action in obstacles:
        yield Check(name, Level.MISSING, sentence, action)
    if not obstacles:
        yield Check(name, Level.OK, "unit and rules are installed")


def _host_obstacles(units: Collection[Path], rules: Collection[Path]) -> Iterator[tuple[str, str]]:
    """What is missing or switched off; of files with one name the first directory's counts."""
    needed = [(boot.UNIT, units), *((file, rules) for file in TWIN_RULES)]
    for file, directories in needed:
        path = next((each / file for each in directories if (each / file).exists()), None)
        if path is None:
            yield f"{file} is not installed", INSTALL
        elif replacement.is_masked(path):
            yield f"{path} is a link to /dev/null: it is switched off", f"remove {path}"
    if not capability.has_module("loop"):
        yield "the kernel has no loop devices", "boot one that has"


def volume_checks(volume: Volume, state_directory: Path) -> Iterator[Check]:
    """Everything that stands in the way of one volume, or that nothing does."""
    name = f"boot of {volume.name}"
    found = False
    for level, sentence, action in findings(volume, state_directory):
        found = True
        yield Check(name, level, sentence, action)
    if not found:
        lines = [entry for entry in fstab.entries() if boot.mounts_volume(entry, volume)]
        where = ", ".join(entry.mount_point for entry in lines)
        sentence = f"assembled before {where}" if where else "assembled"
        if stack.live_front(volume):
            sentence += f", and then no more a part of {volume.backing} as LVM shows it"
        yield Check(name, Level.OK, sentence)


Finding = tuple[Level, str, str]


def findings(volume: Volume, state_directory: Path) -> Iterator[Finding]:
    for path in boot.wrong_files(volume, state_directory):
        yield (
            Level.MISSING,
            f"{path} is missing or has been changed",
            f"dmsnap assemble {volume.name} writes it",
        )
    instance = systemd.UNITS / boot.unit_name(volume)
    if replacement.is_masked(instance):
        yield (
            Level.MISSING,
            f"{instance} is a link to /dev/null: nothing assembles {volume.name} at boot",
            f"systemctl unmask '{instance.name}'",
        )
    yield from mount_findings(volume)
    yield from place_findings(volume, state_directory)
    yield from device_findings(volume)
    yield from holder_findings(volume)


def mount_findings(volume: Volume) -> Iterator[Finding]:
    """Who mounts a device below the front instead of it."""
    front = boot.front_paths(volume)[0]
    devices = boot.devices_of(volume)
    for entry in fstab.entries():
        for path in devices:
            # The name of a volume that is live leads to its LV until the next boot.
            if entry.spec not in boot.front_paths(volume) and boot.names_device(entry, path):
                yield (
                    Level.MISSING,
                    f"/etc/fstab mounts {entry.mount_point} from {entry.spec}, a device of "
                    f"{volume.name}: it is kept from that at boot",
                    f"write {front} in its place",
                )
        link = fstab.link_by_content(entry.spec)
        if link is not None and boot.mounts_volume(entry, volume):
            yield from link_findings(volume, link, entry.spec)
    for unit, what in mount_units():
        if what not in boot.front_paths(volume) and any(is_same(what, path) for path in devices):
            yield (
                Level.MISSING,
                f"{unit} mounts {what}, a device of {volume.name}: it is kept from that at boot",
                f"write What={front} in it",
            )


def link_findings(volume: Volume, link: Path, spec: str) -> Iterator[Finding]:
    """A link by UUID or label must lead to the front, while that is there."""
    front = stack.front(volume)
    if stack.exists(front) and not is_same(str(link), str(dm.node(front.name))):
        yield (
            Level.MISSING,
            f"{spec} in /etc/fstab does not lead to {volume.name}'s front now",
            f"dmsnap assemble {volume.name}, then udevadm trigger --action=change --settle",
        )


def mount_units(directory: Path | None = None) -> Iterator[tuple[Path, str]]:
    """The administrator's own mount units and what they mount."""
    for path in sorted((directory or systemd.UNITS).glob("*.mount")):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read(path)
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        what = parser.get("Mount", "What", fallback="")
        if what:
            yield path, what


def is_same(path: str, other: str) -> bool:
    """Whether two paths lead to one block device."""
    try:
        return BlockDevice.probe(lun.node(path)).devno == BlockDevice.probe(lun.node(other)).devno
    except DmsnapError:
        return False


def place_findings(volume: Volume, state_directory: Path) -> Iterator[Finding]:
    """The catalogue and the store must be there before the volume is."""
    places = {"catalogue": str(state_directory), "store": volume.store}
    for what, place in places.items():
        if not place.startswith("/"):
            continue
        if lies_on(Path(place), volume):
            yield (
                Level.MISSING,
                f"the {what} in {place} lies on {volume.name} itself, which is built from it",
                f"move the {what} to another file system",
            )
        mount_point = containing(Path(place))
        if comes_with_network(mount_point) and not boot.waits_for_network(volume):
            yield (
                Level.MISSING,
                f"the {what} in {place} lies on {mount_point}, which waits for the network, and "
                f"{volume.name} is mounted before that is up",
                f"add _netdev to what mounts {volume.name} in /etc/fstab, then dmsnap assemble "
                f"{volume.name}",
            )
        if not comes_at_boot(mount_point):
            yield (
                Level.WARNING,
                f"the {what} in {place} lies on {mount_point}, which nothing mounts at boot",
                f"add {mount_point} to /etc/fstab",
            )
    if lies_on(PROGRAM, volume):
        yield (
            Level.MISSING,
            f"dmsnap itself, in {PROGRAM}, lies on {volume.name}, which it is to build",
            "install it on another file system",
        )
    if any(record.mount_point in ("/", "/usr") for record in volume.mounts):
        yield (
            Level.MISSING,
            f"{volume.name} is mounted on / or /usr: the initramfs would have to assemble it",
            f"dmsnap unprotect {volume.name}",
        )


def lies_on(place: Path, volume: Volume) -> bool:
    """Whether a path lies on a volume, by its front, or by its device where there is no front."""
    try:
        return any(blockdev.file_depends_on(place, devno) for devno in _below(volume))
    except NotFoundError:
        return False


def _below(volume: Volume) -> Iterator[int]:
    """The front, which in a trial lies over the recovery volume, and the volume's device."""
    front = stack.find(stack.front(volume))
    if front is not None:
        yield front.devno
    with suppress(DmsnapError):
        yield BlockDevice.probe(lun.node(volume.backing)).devno


def containing(place: Path) -> Path:
    """The mount point below which a path lies."""
    mounted = (path for path in (place, *place.parents) if mountinfo.mount_at(path))
    return next(mounted, Path("/"))


def comes_at_boot(mount_point: Path) -> bool:
    """The initramfs mounts /, and what fstab or a unit names is mounted where it is needed."""
    named = [entry.mount_point for entry in fstab.entries() if "noauto" not in entry.options]
    unit = systemd.mount_unit(str(mount_point))
    return str(mount_point) in ("/", *named) or any(
        (directory / unit).exists() for directory in systemd.UNIT_DIRECTORIES
    )


def comes_with_network(mount_point: Path) -> bool:
    """Whether fstab has something mounted once the network is up."""
    return any(
        entry.mount_point == str(mount_point)
        and ("_netdev" in entry.options or entry.fs_type in NETWORK_TYPES)
        for entry in fstab.entries()
    )


def device_findings(volume: Volume) -> Iterator[Finding]:
    """Devices that are not there, or are known by a name that is given anew at every boot."""
    serving = volume.serving
    if not lun.is_present(serving):
        yield (
            Level.MISSING,
            f"{serving}, which {volume.name} lies on, is not there: it cannot be assembled",
            _instead(volume),
        )
    if volume.recovery not in (None, serving) and not lun.is_present(str(volume.recovery)):
        yield (
            Level.WARNING,
            f"the recovery volume {volume.recovery} is not there: {volume.name} boots without it",
            _attach(volume, str(volume.recovery)),
        )
    for path in filter(None, (volume.backing, volume.recovery)):
        if path.startswith(NUMBERED):
            yield (
                Level.WARNING,
                f"{path} has no name that stays: it could be another device after a restart, or "
                f"none",
                "use a disk, a partition or a logical volume that udev has links for",
            )


def _instead(volume: Volume) -> str:
    """What to do about a device that a volume lies on and that is not there."""
    if volume.state is VolumeState.PROTECTED and volume.recovery:
        otherwise = f"dmsnap swap {volume.name} puts the recovery volume in its place"
    elif volume.state is VolumeState.TRIAL and volume.backing:
        otherwise = f"dmsnap swap revert {volume.name} goes back to the primary"
    else:
        return _attach(volume, volume.serving)
    return f"{_attach(volume, volume.serving)}; if it is lost, {otherwise}"


def _attach(volume: Volume, device: str) -> str:
    return f"dmsnap assemble {volume.name}" if lun.is_name(device) else "attach it"


def holder_findings(volume: Volume) -> Iterator[Finding]:
    """What lies on a device below the front beside it: it was made before there was a front.

    As by LVM in the initramfs, which has none of the rules that keep it from there.
    """
    for path in filter(None, (volume.backing, volume.recovery)):
        try:
            device = BlockDevice.probe(lun.node(path))
        except DmsnapError:
            continue  # said by others
        try:
            stack.require_held_by(volume, device)
        except BusyError as error:
            yield (
                Level.MISSING,
                f"{error}, past the front of {volume.name}",
                "if that is LVM's, give /etc/lvm/lvm.conf a global_filter that rejects the device, "
                "run update-initramfs -u, and restart",
            )
