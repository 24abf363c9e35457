"""Will it boot: whether each volume will be there after a restart. Changes nothing."""

import configparser
from collections.abc import Collection, Iterator
from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host import blockdev, capability, fstab, lun, mountinfo, systemd
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.service.health import boot
from dmsnap.service.health.finding import Check, Level
from dmsnap.snapshot import stack

TWIN_RULES = "95-dmsnap-twins.rules"
INSTALL = "run make install"


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
    if not any((directory / boot.UNIT).exists() for directory in units):
        yield Check(name, Level.MISSING, f"{boot.UNIT} is not installed", INSTALL)
    elif not any((directory / TWIN_RULES).exists() for directory in rules):
        yield Check(name, Level.MISSING, f"{TWIN_RULES} is not installed", INSTALL)
    elif not capability.has_module("loop"):
        yield Check(name, Level.MISSING, "the kernel has no loop devices", "boot one that has")
    else:
        yield Check(name, Level.OK, "unit and rules are installed")


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
    yield from mount_findings(volume)
    yield from place_findings(volume, state_directory)
    yield from device_findings(volume)


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
        if entry.spec.startswith("UUID=") and boot.mounts_volume(entry, volume):
            yield from link_findings(volume, Path("/dev/disk/by-uuid", entry.spec[5:]), entry.spec)
    for unit, what in mount_units():
        if what not in boot.front_paths(volume) and any(is_same(what, path) for path in devices):
            yield (
                Level.MISSING,
                f"{unit} mounts {what}, a device of {volume.name}: it is kept from that at boot",
                f"write What={front} in it",
            )


def link_findings(volume: Volume, link: Path, spec: str) -> Iterator[Finding]:
    """A link by UUID must lead to the front, while that is there."""
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
        if not comes_at_boot(mount_point):
            yield (
                Level.WARNING,
                f"the {what} in {place} lies on {mount_point}, which nothing mounts at boot",
                f"add {mount_point} to /etc/fstab",
            )
    if any(record.mount_point in ("/", "/usr") for record in volume.mounts):
        yield (
            Level.MISSING,
            f"{volume.name} is mounted on / or /usr: the initramfs would have to assemble it",
            f"dmsnap unprotect {volume.name}",
        )


def lies_on(place: Path, volume: Volume) -> bool:
    try:
        return blockdev.file_depends_on(place, BlockDevice.probe(lun.node(volume.backing)).devno)
    except NotFoundError:
        return False


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


def device_findings(volume: Volume) -> Iterator[Finding]:
    """Devices that are not there, or are known by a name that is given anew at every boot."""
    if volume.recovery and not lun.is_present(volume.recovery):
        yield (
            Level.WARNING,
            f"the recovery volume {volume.recovery} is not there: {volume.name} boots without it",
            f"dmsnap assemble {volume.name}" if lun.is_name(volume.recovery) else "attach it",
        )
    for path in filter(None, (volume.backing, volume.recovery)):
        if path.startswith(("/dev/loop", "/dev/sd", "/dev/vd", "/dev/nvme", "/dev/xvd")):
            yield (
                Level.WARNING,
                f"{path} has no name that stays: it could be another device after a restart, or "
                f"none",
                "use a disk, a partition or a logical volume that udev has links for",
            )
