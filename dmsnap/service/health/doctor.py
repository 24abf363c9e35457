"""What this host has and lacks, each with what to do about it. Changes nothing."""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from dmsnap.catalogue import database, present
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DmsnapError
from dmsnap.host import capability, kernel, replacement, systemd, udev
from dmsnap.host.dm import device as dm
from dmsnap.host.lio import state
from dmsnap.host.run import PACKAGES, which
from dmsnap.service.configuration import configuration
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import boot_check, counting_check, schedule_check, silence
from dmsnap.service.health.finding import Check, Level
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import open_space
from dmsnap.tracking import choice
from dmsnap.units import MIB, format_size

# LOOP_CONFIGURE, and syncfs(2) that reports errors of writing back.
OLDEST_KERNEL = (5, 8)

RULES = "11-dmsnap.rules"
RULES_DIRECTORIES = tuple(
    Path(directory, "udev", "rules.d")
    for directory in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
LOW_SPACE_BYTES = 64 * MIB

NOT_ROOT = "not checked: only root can"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and what cannot be done without it."""

    name: str
    level: Level
    purpose: str


# What lies where a kernel module has another name than its dm target.
MODULES = {
    "linear": "dm-mod",
    "snapshot-origin": "dm-snapshot",
    "snapshot-merge": "dm-snapshot",
}
TOOLS = (
    Tool("blkid", Level.MISSING, "finds what is on a device"),
    Tool("mount", Level.MISSING, "mounts volumes and points"),
    Tool("flock", Level.MISSING, "waits for another command on the same volume"),
    Tool("modprobe", Level.WARNING, "loads dm targets"),
    Tool("e2fsck", Level.WARNING, "checks ext4 file systems"),
    Tool("xfs_repair", Level.WARNING, "checks XFS file systems"),
    Tool("lvm", Level.WARNING, "is needed for stores in a volume group"),
    Tool("iscsiadm", Level.WARNING, "is needed for recovery volumes on LUNs"),
    Tool("iscsid", Level.WARNING, "keeps the sessions to recovery volumes on LUNs"),
)


def doctor() -> list[Check]:
    """Look at the host. Works without root, which can see less."""
    root = os.geteuid() == 0
    checks = [kernel_check(kernel.version()), root_check(root)]
    checks += target_checks(loaded_targets() if root else None, capability.has_module)
    checks.append(lio_check(capability.has_module))
    checks.append(io_uring_check(capability.io_uring_refusal()))
    checks += [tool_check(tool, which(tool.name)) for tool in TOOLS]
    checks.append(iscsi_check(capability.has_module("iscsi_tcp")))
    checks.append(udev_check(udev.is_running(), RULES_DIRECTORIES))
    checks += configured_checks(root)
    return checks


def healthy(checks: Collection[Check]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(check.level is not Level.MISSING for check in checks)


def kernel_check(version: tuple[int, int]) -> Check:
    """The kernel's age."""
    name = "kernel"
    running = f"Linux {version[0]}.{version[1]}"
    if version < OLDEST_KERNEL:
        oldest = ".".join(str(part) for part in OLDEST_KERNEL)
        return Check(name, Level.MISSING, f"{running} is too old", f"boot Linux {oldest} or later")
    if version < choice.OLDEST_KERNEL:
        oldest = ".".join(str(part) for part in choice.OLDEST_KERNEL)
        return Check(
            name,
            Level.WARNING,
            f"{running}: dm-era can lose marks on a crash, so every sync reads the whole volume",
            f"boot Linux {oldest} or later",
        )
    return Check(name, Level.OK, running)


def root_check(root: bool) -> Check:
    """Who runs this."""
    if root:
        return Check("privileges", Level.OK, "this is root")
    return Check(
        "privileges",
        Level.WARNING,
        "this is not root: some things cannot be checked, and devices not be changed",
        "run it as root",
    )


def loaded_targets() -> set[str] | None:
    """The dm targets in the kernel now; None when device-mapper does not answer."""
    try:
        return set(dm.targets())
    except DmsnapError:
        return None


def target_checks(
    loaded: Collection[str] | None, has_module: Callable[[str], bool]
) -> Iterator[Check]:
    """The dm targets that dmsnap loads: each must be in the kernel, or be a module of it."""
    for target in stack.TARGETS:
        name = f"dm target {target}"
        module = MODULES.get(target, f"dm-{target}")
        if loaded is not None and target in loaded:
            yield Check(name, Level.OK, "in the kernel")
        elif has_module(module):
            yield Check(name, Level.OK, f"{module} is loaded when it is needed")
        else:
            yield Check(
                name,
                Level.MISSING,
                f"the kernel {os.uname().release} has no {module}",
                "boot a kernel with device-mapper's modules, as distributions ship them",
            )


def lio_check(has_module: Callable[[str], bool]) -> Check:
    """What exporting LUNs needs of the kernel."""
    missing = [module for module in state.MODULES if not has_module(module)]
    if not missing:
        return Check("iSCSI target", Level.OK, "is loaded when it is needed")
    return Check(
        "iSCSI target",
        Level.WARNING,
        f"the kernel {os.uname().release} has no {', '.join(missing)}: LUNs cannot be exported",
        "boot a kernel with LIO's modules, as distributions ship them",
    )


def io_uring_check(refusal: int) -> Check:
    """How blocks are copied."""
    if not refusal:
        return Check("io_uring", Level.OK, "can be used")
    return Check(
        "io_uring",
        Level.WARNING,
        f"refused ({os.strerror(refusal)}): copying is slower without",
        "see the sysctl kernel.io_uring_disabled",
    )


def tool_check(tool: Tool, found: Path | None) -> Check:
    """A program that dmsnap runs."""
    if found is not None:
        return Check(tool.name, Level.OK, str(found))
    package = PACKAGES.get(tool.name, tool.name)
    return Check(
        tool.name,
        tool.level,
        f"not installed; it {tool.purpose}",
        f"install the package {package}",
    )


def iscsi_check(present: bool) -> Check:
    """The kernel's side of iSCSI."""
    if present:
        return Check("iscsi_tcp", Level.OK, "is loaded when it is needed")
    return Check(
        "iscsi_tcp",
        Level.WARNING,
        f"the kernel {os.uname().release} has no iscsi_tcp: no recovery volumes on LUNs",
        "boot a kernel that has it, as distributions ship them",
    )


def udev_check(running: bool, directories: Collection[Path]) -> Check:
    """The rules that keep points and replicas out of /dev/disk/by-uuid."""
    installed = next((path / RULES for path in directories if (path / RULES).exists()), None)
    if not running:
        return Check("udev", Level.OK, "not running: there are no links to keep right")
    if installed is None:
        return Check(
            "udev",
            Level.MISSING,
            "the rules are not installed: links in /dev/disk could lead to a replica",
            "run make install, or copy udev-rules/11-dmsnap.rules to /etc/udev/rules.d and run "
            "udevadm control --reload",
        )
    if replacement.is_masked(installed):
        return Check(
            "udev",
            Level.MISSING,
            f"{installed} is a link to /dev/null: links in /dev/disk could lead to a replica",
            f"remove {installed}",
        )
    return Check("udev", Level.OK, str(installed))


def configured_checks(root: bool) -> Iterator[Check]:
    """The configuration, and what it names."""
    try:
        settings = configuration.load()
    except DmsnapError as error:
        yield Check("configuration", Level.MISSING, str(error), "correct the file")
        return
    yield from declared_checks(settings.state_directory)
    yield directory_check("state directory", settings.state_directory)
    yield directory_check("run directory", settings.run_directory)
    yield catalogue_check(settings, root)
    silent = silence_checks(settings) if root else []
    yield from silent
    yield store_check(settings.default_store, root, lvm_hangs=bool(silent))
    yield from boot_checks(settings, root)


def declared_checks(state_directory: Path) -> Iterator[Check]:
    """What the files of the configuration declare, the settings being right, and whether it is in
    force.
    """
    # Imported where it is needed: pydantic takes a third of a command's start.
    from dmsnap.service.configuration import configuration_check

    checked = configuration_check.check()
    yield schedule_check.configuration_check(checked)
    yield from schedule_check.checks(checked, with_systemd=systemd.is_running())
    yield from schedule_check.clock_check(checked, state_directory)


def boot_checks(settings: Configuration, root: bool) -> Iterator[Check]:
    """Whether the volumes will be there after a restart."""
    if not root:
        yield Check("boot", Level.WARNING, NOT_ROOT, "run it as root")
        return
    try:
        volumes = []
        if database.at(settings.catalogue_place).exists():
            with Catalogue.open(settings.catalogue_place) as catalogue:
                volumes = catalogue.volumes()
        if not volumes:
            return
        yield from boot_check.host_checks(
            systemd.UNIT_DIRECTORIES, RULES_DIRECTORIES, with_systemd=systemd.is_running()
        )
        if systemd.is_running():
            yield schedule_check.service_check()
        for volume in volumes:
            yield from boot_check.volume_checks(volume, settings.state_directory)
            yield from counting_check.volume_checks(volume)
    except DmsnapError as error:
        yield Check("boot", Level.WARNING, f"not checked: {error}", error.hint)


def silence_checks(settings: Configuration) -> list[Check]:
    """Devices of volumes that do not answer."""
    try:
        if not database.at(settings.catalogue_place).exists():
            return []
        with Catalogue.open(settings.catalogue_place) as catalogue:
            volumes = catalogue.volumes()
            recorded = present.of_volumes(catalogue, [volume.id for volume in volumes])
    except DmsnapError:
        return []  # said of the catalogue
    found = silence.of_volumes(volumes, recorded)
    return [
        Check(f"disks of {volume.name}", Level.MISSING, sentence, "see what the kernel says of it")
        for volume in volumes
        for sentence in found[volume.id].sentences.values()
    ]


def directory_check(name: str, directory: Path) -> Check:
    """A directory of dmsnap's own, or where it would be made."""
    present = next(path for path in (directory, *directory.parents) if path.exists())
    if not present.is_dir():
        return Check(name, Level.MISSING, f"{present} is no directory", "remove or rename it")
    status = os.statvfs(present)
    free_bytes = status.f_bavail * status.f_frsize
    where = str(directory) + ("" if present == directory else " (made at first use)")
    if status.f_flag & os.ST_RDONLY:
        return Check(
            name,
            Level.MISSING,
            f"{where} lies on a file system that is mounted read-only",
            "choose another in /etc/dmsnap/dmsnap.toml",
        )
    level = Level.WARNING if free_bytes < LOW_SPACE_BYTES else Level.OK
    action = "make room" if level is Level.WARNING else None
    return Check(name, level, f"{where}, {format_size(free_bytes)} free", action)


def catalogue_check(settings: Configuration, root: bool) -> Check:
    """The catalogue must open, where there is one."""
    name, place = "catalogue", settings.catalogue_place
    if not root:
        return Check(name, Level.WARNING, NOT_ROOT, "run it as root")
    try:
        where = database.at(place)
        if not where.exists():
            return Check(name, Level.OK, f"{where.name} (made at first use)")
        with Catalogue.open(place) as catalogue:
            count = len(catalogue.volumes())
    except DmsnapError as error:
        return Check(
            name, Level.MISSING, str(error), error.hint or "move it away: labels hold the truth"
        )
    sentence = f"{where.name}, {count} volumes protected"
    if settings.catalogue:
        return Check(
            name,
            Level.WARNING,
            f"{sentence}; at boot they are assembled only if its server answers by then",
            "mount them with _netdev, which comes after the network",
        )
    return Check(name, Level.OK, sentence)


def store_check(store: str, root: bool, *, lvm_hangs: bool = False) -> Check:
    """Where tracking data and live points go unless protect is told otherwise."""
    name = "store"
    if lvm_hangs and not store.startswith("/"):
        sentence = f"the volume group {store} is not looked at: LVM would wait for the disk"
        return Check(name, Level.WARNING, sentence, "have all disks answer first")
    readable = store.startswith("/") and os.access(Path(store).parent, os.X_OK)
    if not (readable or root):
        return Check(name, Level.WARNING, NOT_ROOT, "run it as root")
    try:
        space = open_space(store)
        space.require()
        free_bytes = space.free_bytes()
    except DmsnapError as error:
        return Check(
            name, Level.WARNING, str(error), error.hint or "give protect another with --store"
        )
    return Check(name, Level.OK, f"{store}, {format_size(free_bytes)} free")
