"""Runs in the guest: what a computer shows of dmsnap, without what is new each time.

It is written to be equal before an operation and after it was undone: no ids, no numbers of
devices, no times. Asks the kernel and SQLite, not dmsnap.
"""

import json
import re
import sqlite3
import subprocess
from pathlib import Path

STORE = Path("/store")
CATALOGUE = Path("/var/lib/dmsnap/catalogue.db")
MOUNT_POINT = Path("/data")
LIO = Path("/sys/kernel/config/target")
ISCSI = Path("/sys/class/iscsi_session")
NODES = (Path("/etc/iscsi/nodes"), Path("/var/lib/iscsi/nodes"))
IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12}|[0-9a-f]{8}")


def run(*argv: str) -> str:
    """What a program prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def without_ids(text: str) -> str:
    """Ids, and generations, are new each time."""
    return re.sub(r"origin-\d+", "origin-N", IDS.sub("ID", text))


def rows(query: str) -> list[list[object]]:
    """What the catalogue holds; nothing where there is none."""
    if not CATALOGUE.exists():
        return []
    with sqlite3.connect(f"file:{CATALOGUE}?mode=ro", uri=True) as catalogue:
        return [list(row) for row in catalogue.execute(query)]


def devices() -> list[str]:
    """dm devices, by name and by the kinds of their targets."""
    lines = run("dmsetup", "table").splitlines()
    return sorted(
        without_ids(line.split(":")[0]) + " " + line.split()[3]
        for line in lines
        if line != "No devices found"
    )


def suspended() -> list[str]:
    """dm devices that somebody would hang on."""
    states = run("dmsetup", "info", "-c", "--noheadings", "-o", "name,suspended").splitlines()
    return [state for state in states if state.endswith(":Suspended")]


def mounts() -> list[str]:
    """What is mounted of disks, and how."""
    text = run("findmnt", "-rn", "-o", "TARGET,SOURCE,FSTYPE,VFS-OPTIONS", "-t", "ext4")
    return sorted(without_ids(line) for line in text.splitlines() if not line.startswith("/ "))


def loops() -> list[str]:
    """Loop devices, by the files behind them."""
    lines = run("losetup", "--list", "--noheadings", "--output", "BACK-FILE").splitlines()
    return sorted(without_ids(Path(line.strip()).name) for line in lines)


def logical_volumes() -> list[str]:
    """Logical volumes, by name."""
    names = run("lvs", "--noheadings", "-o", "vg_name,lv_name").splitlines()
    return sorted(without_ids(name.strip()) for name in names)


def backstores() -> list[str]:
    """What LIO holds, and on which device."""
    found = []
    for path in LIO.glob("core/iblock_*/*/udev_path"):
        device = Path(path.read_text().strip()).name
        found.append(without_ids(f"{path.parent.name} on {device}"))
    return sorted(found)


def luns() -> list[str]:
    """What LIO publishes: LUNs with the backstores behind them, and what initiators see of them."""
    found = []
    for path in LIO.glob("iscsi/iqn*/tpgt_*/lun/lun_*"):
        behind = [each.resolve().name for each in path.iterdir() if each.is_symlink()]
        found.append(f"{path.parts[6]} {path.name} {behind}")
    found += [
        f"{path.parts[6]} {path.parent.name} {path.name}"
        for path in LIO.glob("iscsi/iqn*/tpgt_*/acls/*/lun_*")
    ]
    found += [path.name for path in LIO.glob("iscsi/iqn*")]
    return sorted(without_ids(each) for each in found)


def sessions() -> list[str]:
    """iSCSI targets that this host is logged in to, and those that it remembers."""
    found = [path.read_text().strip() for path in ISCSI.glob("*/targetname")]
    found += [f"node {path.name}" for nodes in NODES for path in nodes.glob("*")]
    return sorted(without_ids(each) for each in found)


def settings() -> list[str]:
    """What lies in /etc for the boot."""
    found = [
        *Path("/etc/systemd/system").glob("*dmsnap*"),
        *Path("/etc/udev/rules.d").glob("*dmsnap*"),
    ]
    found += Path("/etc/systemd/system").glob("*.d/dmsnap*")
    return sorted(str(path) for path in found) + Path("/etc/fstab").read_text().splitlines()


def state() -> dict[str, object]:
    """All of it."""
    areas = rows("SELECT role FROM area ORDER BY role")
    return {
        "volumes": rows("SELECT name, state FROM volume WHERE removed_ns IS NULL"),
        "places": rows("SELECT backing, recovery FROM volume WHERE removed_ns IS NULL"),
        "way_back": rows("SELECT previous_backing FROM volume WHERE removed_ns IS NULL"
                         " AND previous_backing IS NOT NULL"),
        "sizes": rows("SELECT size_bytes FROM volume WHERE removed_ns IS NULL"),
        "areas": areas,
        "points": rows("SELECT area_id IS NOT NULL, temporary FROM point WHERE deleted_ns IS NULL"
                       " ORDER BY created_ns"),
        "exports": rows("SELECT kind, complete FROM export ORDER BY kind"),
        "unfinished": rows("SELECT operation FROM job WHERE state = 'running'"),
        "devices": devices(),
        "suspended": suspended(),
        "mounts": mounts(),
        "loops": loops(),
        "logical_volumes": logical_volumes(),
        "backstores": backstores(),
        "luns": luns(),
        "sessions": sessions(),
        "store": sorted(without_ids(path.name) for path in STORE.glob("*") if path.is_file()),
        "settings": settings(),
        "note": note.read_text().strip() if (note := MOUNT_POINT / "note").exists() else "",
    }  # fmt: skip


print(json.dumps(state()))
