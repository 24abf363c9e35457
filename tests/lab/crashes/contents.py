"""Runs in the guest, with the recovery volume's device as its argument: what every point shows, and
whose the recovery volume is.

Points of a volume are mounted by ``dmsnap point mount``, as whoever looks for a file would. Of one
that is not protected the history is stacked by dmsetup, as its label says that it lies: what
``dmsnap swap --from-label`` would find.
"""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmsnap.cli.main import main

SECTOR_BYTES = 512
PIECE_BYTES = 1 << 20
RECOVERY = sys.argv[1]
SCRATCH = Path("/run/contents")


class RefusedError(Exception):
    """What dmsnap does not do."""


def dmsnap(*words: str) -> Any:
    """A command's result."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*words, "--json"])
    if status:
        print(err.getvalue(), file=sys.stderr)
        raise RefusedError(json.loads("{" + err.getvalue().partition("{\n")[2])["kind"])
    return json.loads(out.getvalue()) if out.getvalue() else None


def run(*argv: object) -> str:
    """What a program prints."""
    words = [str(word) for word in argv]
    environment = {**os.environ, "DM_DISABLE_UDEV": "1"}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout


def shown(directory: Path) -> dict[str, object]:
    """A point that is mounted: its files, whether e2fsck finds fault, and every byte of it."""
    device = run("findmnt", "-no", "SOURCE", "-M", directory).strip()
    checked = subprocess.run(["e2fsck", "-fn", device], capture_output=True, check=False)
    files = {path.name: digest(path) for path in sorted(directory.rglob("*")) if path.is_file()}
    note = (directory / "note").read_text().strip()
    content = digest_of_content(device)
    return {"note": note, "files": files, "e2fsck": checked.returncode, "bytes": content}


def digest(path: Path | str) -> str:
    """Enough of a digest to tell one content from another."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_of_content(device: str) -> str:
    """The same of a device, without the zeroes at its end: a point of a volume that was made larger
    has some behind what it was, and is the same point.
    """
    found, zeroes = hashlib.sha256(), 0
    with Path(device).open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            if piece.count(0) == len(piece):
                zeroes += len(piece)
                continue
            found.update(bytes(zeroes))
            found.update(piece.rstrip(b"\0"))
            zeroes = len(piece) - len(piece.rstrip(b"\0"))
    return found.hexdigest()[:16]


def mounted(point_id: str) -> dict[str, object]:
    """What a point shows that dmsnap mounts, or has mounted; or why it does not."""
    present = Path("/run/dmsnap/points") / point_id.replace("-", "")[:12]
    if present.is_mount():
        return shown(present)
    try:
        directory = dmsnap("point", "mount", point_id)["mount_point"]
    except RefusedError as error:
        return {"refused": str(error)}
    try:
        return shown(Path(directory))
    finally:
        dmsnap("point", "umount", point_id)


def points() -> list[dict[str, object]]:
    """What all points of the volume show, oldest first; none where no volume is protected."""
    return [{"id": point["id"], **mounted(point["id"])} for point in dmsnap("point", "list")]


def read_label() -> Any:
    """The recovery volume's label; None where there is none."""
    try:
        return dmsnap("inspect", "label", RECOVERY)
    except RefusedError:
        return None


def labelled(label: Any) -> list[dict[str, object]]:
    """What the replica and its history show, oldest first, with no volume to ask.

    All of it is read-only: a store is not written to by looking.
    """
    if label is None or label["state"] != "consistent":
        return []
    with looped() as device:
        return stacked(label, device)


@contextlib.contextmanager
def looped() -> Iterator[str]:
    """The recovery volume by a loop device: no other is let onto the disk of a target's LUN."""
    run("modprobe", "loop")
    device = run("losetup", "--find", "--show", "--read-only", RECOVERY).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def stacked(label: Any, device: str) -> list[dict[str, object]]:
    """The replica, and step by step what lies behind it."""
    made = list[str]()
    try:
        below = replica(label, device, made)
        found = [{"id": label["point_uuid"], **looked_into(below)}]
        for number, entry in enumerate(label["history"]):
            store = store_of(number, device, entry, made)
            below = level(number, below, store, label["size_bytes"], entry["chunk_size"], made)
            found.append({"id": entry["point_uuid"], **looked_into(below)})
    finally:
        for name in reversed(made):
            run("dmsetup", "remove", name)
    return found[::-1]


def replica(label: Any, device: str, made: list[str]) -> str:
    """The recovery volume without what lies behind the replica."""
    table = f"0 {label['size_bytes'] // SECTOR_BYTES} linear {device} 0"
    return create("contents-replica", table, made)


def store_of(number: int, device: str, entry: Any, made: list[str]) -> str:
    """An undo store."""
    first, length = (entry[f"store_{what}_bytes"] // SECTOR_BYTES for what in ("offset", "length"))
    return create(f"contents-store-{number}", f"0 {length} linear {device} {first}", made)


def level(
    number: int, below: str, store: str, size_bytes: int, chunk_size: int, made: list[str]
) -> str:
    """One step back: an undo store over what lies below it."""
    over = f"snapshot {below} {store} P {chunk_size}"
    return create(f"contents-{number}", f"0 {size_bytes // SECTOR_BYTES} {over}", made)


def create(name: str, table: str, made: list[str]) -> str:
    """A read-only device."""
    run("dmsetup", "create", name, "--readonly", "--table", table)
    made.append(name)
    return f"/dev/mapper/{name}"


def looked_into(device: str) -> dict[str, object]:
    """What a device shows that nobody else uses."""
    try:
        with mount(device):
            return shown(SCRATCH)
    except subprocess.CalledProcessError as error:
        return {"refused": f"{error.cmd[0]}: {error.stderr.strip()}"}


@contextlib.contextmanager
def mount(device: str) -> Iterator[None]:
    """A device mounted for a moment; nothing is replayed."""
    SCRATCH.mkdir(exist_ok=True)
    run("mount", "-o", "ro,noload", device, SCRATCH)
    try:
        yield
    finally:
        run("umount", SCRATCH)


def seen() -> dict[str, object]:
    """All of it. What a LUN's target wrote went past what is cached of its disk."""
    if Path(RECOVERY).exists():
        run("blockdev", "--flushbufs", RECOVERY)
    label = read_label()
    claim = label and [label["state"], "claimed" if label["host_uuid"] else "anybody's"]
    return {"label": claim, "contents": points() or labelled(label)}


print(json.dumps(seen()))
