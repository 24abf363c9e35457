"""user-mode-linux: the kernel is a program of the tree, its root the tree over hostfs."""

from pathlib import Path

from harness import uml_kernel
from harness.guest import SCRIPTS, Guest, RunDirectory
from harness.jail import DEV, PROC, Jail, Mount, tmpfs
from harness.python_layers import DMSNAP, VENV

CHANNEL = "/dev/ttyS0"
SCRATCH = "/dev/ubda"
PROGRAM = "/usr/bin/linux.uml"
MODULES = "/usr/lib/modules"
MEMORY_DIRECTORY = "/dev/shm"  # noqa: S108 - the jail's own
OVERHEAD_MIB = (
    1024  # user-mode-linux adds to its memory file what address space randomisation takes
)


def disk(number: int) -> str:
    """Return the device of a guest's disk, counted from 1."""
    return f"/dev/ubd{chr(ord('a') + number)}"


def _seen(number: int) -> str:
    return f"/tmp/disk{number}"  # noqa: S108 - the jail's own


def _network(guest: Guest) -> list[str]:
    """The network device ``vec0``, where a cable is plugged in."""
    if guest.plug is None:
        return []
    return [f"vec0:transport=fd,fd={guest.plug.socket.fileno()},mac={guest.plug.mac}"]


def _before_libc(path: Path) -> Mount:
    return Mount("ro", str(path), f"/tmp/{path.name}")  # noqa: S108 - the jail's own


def _of_another_suite(guest: Guest) -> list[Mount]:
    """A kernel in the place of the tree's own, and its modules where modprobe looks for them."""
    if guest.package is None:
        return []
    return [
        Mount("ro", str(guest.package / uml_kernel.PROGRAM), PROGRAM),
        Mount("ro", str(guest.package / uml_kernel.MODULES), MODULES),
    ]


def argv(guest: Guest, run: RunDirectory, channel: int) -> list[str]:
    """Return the argument list that boots `guest`, its channel the socket `channel`.

    hostfs gives root in the guest whatever the process may do on the host, so the process lives in
    a jail in which nothing can be written but the run's own work directory and scratch disk.
    """
    libraries = [_before_libc(path) for path in guest.libraries]
    disks = [(number, disk) for number, disk in enumerate(guest.disks, 1) if disk]
    mounts = (
        PROC,
        DEV,
        tmpfs("/tmp", 64),  # noqa: S108 - the jail's own
        tmpfs(MEMORY_DIRECTORY, guest.memory_mib + OVERHEAD_MIB),
        Mount("ro", str(guest.checkout), "/src"),
        Mount("ro", str(SCRIPTS), "/lab/guest"),
        Mount("ro", str(guest.venv), VENV),
        Mount("ro", str(guest.dmsnap), DMSNAP),
        Mount("rw", str(run.work), "/lab/work"),
        Mount("rw", str(run.scratch), "/lab/scratch"),
        *(Mount("rw", str(disk), _seen(number)) for number, disk in disks),
        *_of_another_suite(guest),
        *libraries,
    )
    kernel = [
        PROGRAM,
        f"mem={guest.memory_mib}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "init=/lab/guest/init-uml",
        "ubd0=/lab/scratch",
        "con=null",
        "con0=null,fd:2",
        f"ssl0=fd:{channel},fd:{channel}",
        *(f"ubd{number}={_seen(number)}" for number, _ in disks),
        *_network(guest),
        *guest.kernel.arguments,
        *(["LAB_KEEP=1"] if guest.keep else []),  # what the kernel does not know is init's
    ]
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    preload = f"LD_PRELOAD={':'.join(library.target for library in libraries)}"
    scrubbed = ["env", "-i", path, "HOME=/tmp", f"TMPDIR={MEMORY_DIRECTORY}", preload]
    return Jail(guest.tree, run.root, mounts).argv([*scrubbed, *kernel])
