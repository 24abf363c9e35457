"""What a volume leaves in /etc for the next boot: rules, a unit's ordering and its fstab lines.

The backing device and the recovery volume carry the same file system as the front, and are there
before it: udev rules keep them out of the links that name file systems, from the first event on.
An instance of ``dmsnap-assemble@.service`` then builds the stack before what is mounted from it.
A volume is ordered by itself, because its store may lie on a file system that is mounted at boot.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DmsnapError, NotFoundError
from dmsnap.host import fstab, lun, lun_path, multipath, replacement, systemd, udev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.fstab import Entry
from dmsnap.host.lun import LunName
from dmsnap.host.sysfs import SYSFS
from dmsnap.service.journal import Step
from dmsnap.service.swaps import mounting
from dmsnap.service.volumes import live_link

UNIT = "dmsnap-assemble@.service"
LOCAL = "local-fs.target"
REMOTE = "remote-fs.target"
RESUME = "dmsnap-resume.service"
NETWORK = """Wants=network-online.target
After=network-online.target iscsid.socket iscsid.service iscsi.service open-iscsi.service
"""
# In lines of fstab that wait for the network because dmsnap wrote so: their volume lies on a LUN.
ON_LUN = ("_netdev", "x-dmsnap.lun")
HEADING = "# Written by dmsnap for the volume {name}; dmsnap unprotect takes it away.\n"
COPIES_HEADING = (
    "# Written by dmsnap when {name} was unprotected, for what carries its file system, too. Who "
    "means to use that in its place removes this file.\n"
)


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file of dmsnap's own in /etc, and what should be in it."""

    path: Path
    text: str

    def is_right(self) -> bool:
        try:
            return self.path.read_text() == self.text
        except OSError:
            return False

    def put_right(self) -> None:
        """Write it, unless that is in it: /etc may be read-only by now, and all be as it must."""
        if not self.is_right():
            replacement.replace_unless_masked(self.path, self.text)


def rules_path(volume: Volume) -> Path:
    """The udev rules that know a volume's devices.

    After those that find out what is on a device and make the links that name it, and before those
    that have Btrfs, MD and LVM take it (64-btrfs, 64-md-raid-assembly, 69-lvm).
    """
    return udev.RULES / f"64-0-dmsnap-{volume.name}.rules"


def remove_former_rules(volume: Volume) -> None:
    """Remove these rules from where they once were: too late to keep LVM from a twin."""
    path = udev.RULES / f"90-dmsnap-{volume.name}.rules"
    if path.exists():
        replacement.remove_file(path)


def unit_name(volume: Volume) -> str:
    """The instance that assembles a volume."""
    return _unit_name(volume.name)


def _unit_name(name: str) -> str:
    return UNIT.replace("@", f"@{systemd.escape(name)}")


# hiding the twins


def hide(volume: Volume, joining: str | None = None) -> None:
    """Keep the devices that carry a volume's file system beside the front out of its links.

    ``joining`` is the only one that is new to them, or goes: the others, of which one may hang, are
    not looked at again.
    """
    live_link.move_former_rules(volume)
    rules_file(volume).put_right()
    remove_former_rules(volume)
    udev.reload_rules()
    udev.look_again(present(volume) if joining is None else nodes_of([joining]))


def show(volume: Volume, *, forget: bool = True) -> None:
    """Give a device its links back. With ``forget`` False the copies stay hidden, as long as they
    carry the file system that the device has.
    """
    copies = [] if forget else [*copies_of(volume), *volume.left_behind]
    text = lines_while_copies(volume, copies)
    if text:
        text = COPIES_HEADING.format(name=volume.name) + text
        replacement.replace_unless_masked(rules_path(volume), text)
    else:
        replacement.remove_file(rules_path(volume))
    remove_former_rules(volume)
    udev.reload_rules()
    udev.look_again(present(volume))


def rules_file(volume: Volume) -> BootFile:
    """What marks the backing device, the recovery volume, a former primary, and the device that
    the volume is being moved to or was moved away from.
    """
    text = "".join(rule_line(volume, path) for path in devices_of(volume))
    text += lines_while_copies(volume, volume.left_behind)
    return BootFile(rules_path(volume), _headed(volume, text))


def lines_while_copies(volume: Volume, paths: Collection[str]) -> str:
    """Rules for devices that are hidden as long as they carry the volume's file system."""
    if not volume.fs_uuid:
        return ""
    condition = f'ENV{{ID_FS_UUID}}=="{udev.pattern(volume.fs_uuid)}"'
    return "".join(rule_line(volume, path, condition) for path in paths)


def copies_of(volume: Volume) -> list[str]:
    """What carries the volume's file system and is not the volume's device."""
    return [path for path in (volume.recovery, volume.previous_backing) if path]


def devices_of(volume: Volume) -> list[str]:
    """Device and copies: the same before a swap is committed and after it."""
    target = volume.hydration.target if volume.hydration else None
    return sorted({path for path in (volume.backing, *copies_of(volume), target) if path})


def present(volume: Volume) -> list[Path]:
    """The devices of a volume that exist now."""
    return nodes_of(sorted({*devices_of(volume), *volume.left_behind}))


def nodes_of(names: Collection[str]) -> list[Path]:
    """Recorded devices, as far as they are there, with every path to those that are LUNs."""
    found = [lun.node(name).resolve() for name in names if lun.is_present(name)]
    return list(dict.fromkeys([*found, *(path for node in found for path in _paths_to(node))]))


def _paths_to(node: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotFoundError):  # it has gone since
        return [SYSFS.device_path(devno) for devno in lun_path.to_same(node.stat().st_rdev)]
    return []


def rule_line(volume: Volume, path: str, *conditions: str) -> str:
    """The rule that marks the device recorded as ``path``."""
    lines = []
    for match in lun_matches(LunName.parse(path)) if lun.is_name(path) else device_matches(path):
        words = ['SUBSYSTEM=="block"', match, *conditions]
        lines.append(", ".join([*words, f'ENV{{DMSNAP_TWIN}}="{volume.name}"']) + "\n")
    return "".join(lines)


def lun_matches(name: LunName) -> list[str]:
    """How udev knows a LUN: by who it is, so that every path to it is known, and dm-multipath's."""
    mapped = multipath.uuid_of(udev.pattern(name.wwid))
    return [path_match(name.wwid), f'KERNEL=="dm-*", ENV{{DM_UUID}}=="{mapped}"']


def path_match(wwid: str) -> str:
    """How udev knows every path to a LUN."""
    return f'KERNEL=="sd*", ATTRS{{wwid}}=="{udev.pattern(wwid)}"'


def device_matches(path: str) -> list[str]:
    """How udev knows a device by its path; one of dm-multipath's with every path to it."""
    wwid = multipath.wwid_in(path)
    return [device_match(path), *([path_match(wwid)] if wwid else [])]


def device_match(path: str) -> str:
    """How udev knows a device by the path that dmsnap knows it by."""
    link = path.removeprefix("/dev/")
    if path.startswith("/dev/disk/") or Path(path).is_symlink():
        return f'SYMLINK=="{udev.pattern(link)}"'
    try:
        file = SYSFS.loop_backing_file(BlockDevice.probe(Path(path)).devno)
    except NotFoundError:
        file = None
    # The number of a loop device is another one after a boot; its file is not.
    attribute = f', ATTR{{loop/backing_file}}=="{udev.pattern(file)}"' if file else ""
    kernel_name = "loop*" if file else udev.pattern(link.replace("/", "!"))
    return f'KERNEL=="{kernel_name}"{attribute}'


def _headed(volume: Volume, text: str) -> str:
    return HEADING.format(name=volume.name) + text


# the unit


def prepare(volume: Volume, state_directory: Path) -> None:
    """Have the stack built at boot, and what mounted its device mount the front."""
    right = unit_files(volume, state_directory)
    remove_unit_files(volume, but=[file.path for file in right])
    for file in right:
        file.put_right()
    respell_fstab(volume)
    systemd.reload()


def network_steps(before: Volume, after: Volume, state_directory: Path) -> list[Step]:
    """What a boot needs more, or no more, where a front goes over to a LUN, or from one."""
    if needs_network(before) == needs_network(after):
        return []
    what = "wait for the network" if needs_network(after) else "wait for the network no more"
    return [
        Step(
            "prepare-boot",
            f"have {after.name} {what} at boot",
            partial(prepare, after, state_directory),
            partial(prepare, before, state_directory),
        )
    ]


def withdraw(volume: Volume) -> None:
    """Let fstab name the device again, and take the unit's files away.

    In this order: while they are there, assembling sees what fstab names (:func:`is_half_way`).
    """
    restore_fstab(volume)
    remove_unit_files(volume)
    systemd.reload()


def is_half_way(volume: Volume) -> bool:
    """Whether fstab mounts the device itself: so it is between :func:`prepare`'s two parts, or
    :func:`withdraw`'s. What a boot mounts then must not be held by a stack.
    """
    return any(names_device(entry, volume.backing) for entry in fstab.entries())


def remove_unit_files(volume: Volume, but: Collection[Path] = ()) -> None:
    """Remove the unit's drop-ins, of whichever target."""
    wishes = (wish_path(volume, target) for target in (LOCAL, REMOTE))
    paths = [ordering_path(volume), *wishes]
    for path in paths:
        if path not in but:
            replacement.remove_file(path)
            replacement.remove_empty_directory(path.parent)


def ordering_path(volume: Volume) -> Path:
    """The drop-in of the instance."""
    return _ordering_path(volume.name)


def _ordering_path(name: str) -> Path:
    return systemd.UNITS / f"{_unit_name(name)}.d" / "volume.conf"


def is_awaited(name: str) -> bool:
    """Whether a volume of this name is to be assembled at boot."""
    return _ordering_path(name).exists()


def wish_path(volume: Volume, target: str) -> Path:
    """The drop-in of the target that pulls the instance in."""
    return systemd.UNITS / f"{target}.d" / f"dmsnap-{volume.name}.conf"


def wish(volume: Volume, target: str, *units: str) -> BootFile:
    """The drop-in by which a target wants units."""
    text = f"[Unit]\nWants={' '.join(units)}\n"
    return BootFile(wish_path(volume, target), _headed(volume, text))


def unit_files(volume: Volume, state_directory: Path) -> list[BootFile]:
    """Drop-ins: what the instance is ordered by, and who wants it and what comes after it."""
    lines = [entry for entry in fstab.entries() if mounts_volume(entry, volume)]
    remote = waits_for_network(volume)
    target = REMOTE if remote else LOCAL
    points = {record.mount_point for record in mounting.own(volume.mounts)}
    points |= {entry.mount_point for entry in lines if entry.mount_point.startswith("/")}
    before = [*(systemd.mount_unit(point) for point in sorted(points)), target]
    ordering = (
        f"[Unit]\nRequiresMountsFor={systemd.quoted(str(state_directory))}\n"
        + wish_for_store(volume.store)
        + f"Before={' '.join(before)}\n"
        + (NETWORK if remote else "")
    )
    return [
        BootFile(ordering_path(volume), _headed(volume, ordering)),
        wish(volume, target, unit_name(volume), RESUME),
    ]


def wish_for_store(store: str) -> str:
    """The mounts of a store's directory come first, and no more: without them the volume is there,
    untracked. WantsMountsFor= says that from systemd 256 on.
    """
    path = Path(store)
    if not path.is_absolute():
        return ""
    places = [*reversed(path.parents[:-1]), path]
    units = " ".join(systemd.mount_unit(str(place)) for place in places)
    return f"Wants={units}\nAfter={units}\n"


# fstab


def mounts_volume(entry: Entry, volume: Volume) -> bool:
    """Whether a line of fstab mounts the volume, by whichever name."""
    if entry.spec in front_paths(volume):
        return True
    if volume.fs_uuid and entry.spec.casefold() == f"UUID={volume.fs_uuid}".casefold():
        return True
    points = [record.mount_point for record in mounting.own(volume.mounts)]
    return entry.mount_point in points or names_device(entry, volume.backing)


def front_paths(volume: Volume) -> tuple[str, str]:
    return f"/dev/mapper/{volume.name}", f"/dev/dmsnap/{volume.name}"


def names_device(entry: Entry, path: str) -> bool:
    """Whether a line names this device, whatever is on it."""
    devno = fstab.devno_of(entry.spec)
    try:
        return devno is not None and devno == BlockDevice.probe(lun.node(path)).devno
    except DmsnapError:
        return False


def respell_fstab(volume: Volume) -> None:
    """Lines that name the device below name the front from now on, and wait for what it needs."""
    front = front_paths(volume)[0]
    fstab.respell(lambda entry: front if names_device(entry, volume.backing) else None)
    wait_for_network(volume, needed=needs_network(volume))


def restore_fstab(volume: Volume) -> None:
    """Lines that name the front name the device again, where there is one."""
    if not volume.backing:
        return
    on_lun = lun.is_name(volume.backing)
    named = lun.lasting_path(LunName.parse(volume.backing)) if on_lun else volume.backing
    wait_for_network(volume, needed=on_lun)
    fstab.respell(lambda entry: str(named) if entry.spec in front_paths(volume) else None)


def needs_network(volume: Volume) -> bool:
    """Whether the front lies on a LUN now."""
    return lun.is_name(volume.serving)


def waits_for_network(volume: Volume) -> bool:
    """Whether a volume is assembled for remote file systems, and not before local ones."""
    lines = (entry for entry in fstab.entries() if mounts_volume(entry, volume))
    return needs_network(volume) or any(is_users_wish(entry) for entry in lines)


def is_users_wish(entry: Entry) -> bool:
    """Whether a line waits for the network, and not because of us."""
    return ON_LUN[0] in entry.options and ON_LUN[1] not in entry.options


def wait_for_network(volume: Volume, *, needed: bool) -> None:
    """Have what mounts the volume wait for the network, or not any more.

    A mount that comes before the network is up cannot wait for a stack that needs it: each would
    be ordered after the other.
    """

    def options(entry: Entry) -> tuple[str, ...]:
        if not mounts_volume(entry, volume):
            return entry.options
        if needed:
            return entry.options if ON_LUN[0] in entry.options else (*entry.options, *ON_LUN)
        ours = ON_LUN if ON_LUN[1] in entry.options else ()
        return tuple(option for option in entry.options if option not in ours)

    fstab.set_options(options)


def wrong_files(volume: Volume, state_directory: Path) -> Iterator[Path]:
    """The files in /etc that are not what the volume needs."""
    rules = rules_file(volume)
    # How a device is matched is known while it is there.
    known = len(present(volume)) == len({*devices_of(volume), *volume.left_behind})
    if not rules.path.exists() or (known and not rules.is_right()):
        yield rules.path
    for file in unit_files(volume, state_directory):
        if not file.is_right():
            yield file.path
