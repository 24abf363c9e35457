"""Stock kernels under qemu, the processor emulated: no hardware help is asked for."""

from pathlib import Path

from harness import stock_kernel
from harness.errors import LabError
from harness.guest import SCRIPTS, Guest, RunDirectory
from harness.program import BOUND_TO_US

CHANNEL = "/dev/hvc0"
SCRATCH = "/dev/lab-scratch"
PROCESSORS = 2  # user-mode-linux has one: here is where code meets another


def disk(number: int) -> str:
    """Return the device of a guest's disk, counted from 1."""
    return f"/dev/disk/by-id/virtio-disk{number}"


def _disk(name: str, path: Path, *, read_only: bool, flushes: bool) -> list[str]:
    escaped = str(path).replace(",", ",,")
    cache = "writeback" if flushes else "unsafe"
    drive = f"if=none,id={name},format=raw,file={escaped},discard=unmap,cache={cache}"
    switch = "on" if read_only else "off"
    return [
        *("-drive", f"{drive},read-only={switch}"),
        *("-device", f"virtio-blk-pci,drive={name},serial={name}"),
    ]


def _share(name: str, path: Path, *, read_only: bool) -> list[str]:
    escaped = str(path).replace(",", ",,")
    switch = "on" if read_only else "off"
    device = f"local,id={name},path={escaped},security_model=none,multidevs=remap"
    return [
        *("-fsdev", f"{device},readonly={switch}"),
        *("-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"),
    ]


def argv(guest: Guest, run: RunDirectory, channel: int) -> list[str]:
    """Return the argument list that boots `guest`, its channel the socket `channel`."""
    if guest.stock is None:
        raise LabError(f"{guest.kernel.name} was given no kernel to boot.")
    if guest.plug is not None:
        raise LabError(f"{guest.kernel.name} has no socket for a network cable.")
    console = str(run.console).replace(",", ",,")
    return [
        *BOUND_TO_US,
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        # Not microvm, which is quicker by a second: it has no timer but the PIT, and on a busy host
        # Linux 6.12 then finds no clock and waits for ever.
        *(
            "-machine",
            "q35,usb=off,sata=off,smbus=off,graphics=off",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ),
        *("-smp", str(PROCESSORS), "-m", f"{guest.memory_mib}M"),
        *("-kernel", str(guest.stock.kernel / stock_kernel.KERNEL)),
        *("-initrd", str(guest.stock.kernel / stock_kernel.INITRD)),
        *("-append", f"console=ttyS0 panic=-1 mitigations=off{' LAB_KEEP=1' * guest.keep}"),
        *("-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=channel,fd={channel}"),
        *("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=channel"),
        *_disk("scratch", run.scratch, read_only=False, flushes=guest.flushes),
        *_disk("root", guest.stock.root / stock_kernel.ROOT, read_only=True, flushes=False),
        *_disk("modules", guest.stock.kernel / stock_kernel.MODULES, read_only=True, flushes=False),
        *(
            word
            for number, image in enumerate(guest.disks, 1)
            if image
            for word in _disk(f"disk{number}", image, read_only=False, flushes=guest.flushes)
        ),
        *_share("src", guest.checkout, read_only=True),
        *_share("guest", SCRIPTS, read_only=True),
        *_share("venv", guest.venv, read_only=True),
        *_share("dmsnap", guest.dmsnap, read_only=True),
        *_share("work", run.work, read_only=False),
    ]
