"""The other side of an export: open-iscsi by hand, in this guest or another one's place."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import PATIENCE_SECONDS, run, wait_until

from dmsnap.host.lio import state

NAME = "iqn.2026-01.org.example.lab:initiator"
NAME_FILE = Path("/etc/iscsi/initiatorname.iscsi")


def start() -> None:
    """iscsid, once in a guest."""
    run("modprobe", "-a", "iscsi_tcp", "sd_mod")
    NAME_FILE.write_text(f"InitiatorName={NAME}\n")
    Path("/run/lock/iscsi").mkdir(parents=True, exist_ok=True)
    if not Path("/run/iscsid.pid").exists():
        run("iscsid")


def login(export: dict[str, object]) -> str:
    """Log in to an export; returns the disk that comes of it."""
    node = ("-m", "node", "-T", export["target"], "-p", export["portal"])
    run("iscsiadm", *node, "-o", "new")
    run("iscsiadm", *node, "--login")
    return disk(export)


def logout(export: dict[str, object]) -> None:
    """Log out, and forget the target. Its side has ended the session, too, when this is done."""
    node = ("-m", "node", "-T", export["target"], "-p", export["portal"])
    run("iscsiadm", *node, "--logout")
    run("iscsiadm", *node, "-o", "delete")
    wait_until("the session ends", lambda: not state.sessions(str(export["target"])))


def is_turned_away(export: dict[str, object], name: str) -> None:
    """An initiator by another name: refused as a failed authorisation (iscsiadm's code 24)."""
    run("iscsiadm", "-m", "iface", "-I", "stranger", "-o", "new")
    run(
        "iscsiadm", "-m", "iface", "-I", "stranger", "-o", "update",
        "-n", "iface.initiatorname", "-v", name,
    )  # fmt: skip
    node = ("-m", "node", "-T", export["target"], "-p", export["portal"], "-I", "stranger")
    run("iscsiadm", *node, "-o", "new")
    run("iscsiadm", *node, "--login", expected=24)
    run("iscsiadm", *node, "-o", "delete")
    run("iscsiadm", "-m", "iface", "-I", "stranger", "-o", "delete")


def disks(number: int) -> list[str]:
    """The kernel names of so many SCSI disks, as soon as they are there."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        names = sorted(path.name for path in Path("/sys/block").glob("sd*"))
        if len(names) == number and all(can_be_opened(f"/dev/{name}") for name in names):
            return names
        time.sleep(0.05)
    raise AssertionError(f"not {number} disks within {PATIENCE_SECONDS} s: {names}")


def disk(export: dict[str, object]) -> str:
    """The disk of a session's LUN, as soon as it is there."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        for session in sessions(export):
            for block in (session / "device").glob(f"target*/*:{export['lun']}/block/*"):
                if can_be_opened(f"/dev/{block.name}"):
                    return f"/dev/{block.name}"
        time.sleep(0.05)
    raise AssertionError(f"no disk of {export['target']} within {PATIENCE_SECONDS} s")


def sessions(export: dict[str, object]) -> Iterator[Path]:
    """The sessions with a target; one that is on its way out is none."""
    for session in Path("/sys/class/iscsi_session").glob("session*"):
        with contextlib.suppress(OSError):
            if (session / "targetname").read_text().strip() == export["target"]:
                yield session


def can_be_opened(path: str) -> bool:
    """Whether a disk is there: sysfs shows a new one a moment before it can be opened."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def delete(disk_path: str) -> None:
    """Have the kernel forget a disk, and all that it has cached of it."""
    run("blockdev", "--flushbufs", disk_path)
    device = Path("/sys/block", Path(disk_path).name, "device")
    (device / "delete").write_text("1\n")


def rescan(export: dict[str, object]) -> str:
    """Scan for the LUN again."""
    run("iscsiadm", "-m", "node", "-T", export["target"], "--rescan")
    return disk(export)


def identity(disk_path: str) -> tuple[bytes, bytes]:
    """Serial number and WWN: the pages 0x80 and 0x83 of vital product data."""
    device = Path("/sys/block", Path(disk_path).name, "device")
    return (device / "vpd_pg80").read_bytes(), (device / "vpd_pg83").read_bytes()
