"""What the scenarios share: disks on loop devices, dmsnap as users call it, judges.

Scenarios run as root inside a lab guest. Everything they make is taken down again, so that one
failed scenario does not spoil the next.
"""

import contextlib
import hashlib
import io
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dmsnap.cli.main import main

SCRATCH = Path("/scratch")
MIB = 1024 * 1024


def run(*argv: object, expected: int = 0, timeout: float = 300) -> str:
    """Run a program and return what it wrote to stdout; any other exit code fails the test."""
    completed = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert completed.returncode == expected, (
        f"{' '.join(str(word) for word in argv)}: exit code {completed.returncode}, "
        f"expected {expected}\n{completed.stdout}\n{completed.stderr}"
    )
    return completed.stdout


def dmsnap(*argv: object, expected: int = 0) -> Any:
    """Run a dmsnap command with ``--json``; its result, or its error object.

    In this process, by the entry point: starting Python anew takes a guest some seconds. What is
    about processes (signals, kills, start-up) uses :func:`dmsnap_process`.
    """
    words = [str(word) for word in argv]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main([*words, "--json"])
    assert code == expected, (
        f"dmsnap {' '.join(words)}: exit code {code}, expected {expected}\n"
        f"{stdout.getvalue()}\n{stderr.getvalue()}"
    )
    text = stdout.getvalue() or stderr.getvalue()
    return json.loads(text) if text.strip() else None


def dmsnap_process(*argv: object) -> "subprocess.Popen[str]":
    """Start a dmsnap command as a process of its own."""
    return subprocess.Popen(
        ["dmsnap", *[str(word) for word in argv]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sha256(path: str | Path, size_bytes: int | None = None) -> str:
    """The SHA-256 of a device or file, read past the page cache; of its first bytes if told."""
    digest = hashlib.sha256()
    with subprocess.Popen(
        ["dd", f"if={path}", "bs=1M", "iflag=direct", "status=none"], stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        left = size_bytes
        while left is None or left > 0:
            piece = reader.stdout.read(MIB if left is None else min(MIB, left))
            if not piece:
                break
            digest.update(piece)
            left = None if left is None else left - len(piece)
        reader.stdout.close()
        reader.kill()
    assert left in (None, 0), f"{path} is shorter than {size_bytes} bytes"
    return digest.hexdigest()


@dataclass
class Lab:
    """Disks, directories and protected volumes of one scenario."""

    directory: Path
    loops: list[str] = field(default_factory=list)
    mounts: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def disk(self, size_bytes: int, *, sector_bytes: int = 512, name: str = "") -> str:
        """A loop device over a sparse file."""
        image = self.directory / f"{name or 'disk'}-{len(self.loops)}.img"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        loop = run(
            "losetup", "--find", "--show", "--direct-io=on", f"--sector-size={sector_bytes}", image
        ).strip()
        self.loops.append(loop)
        return loop

    def store(self) -> str:
        """A directory for COW stores and era metadata."""
        path = self.directory / "store"
        path.mkdir(exist_ok=True)
        return str(path)

    def mounted(self, device: str, fs_type: str = "ext4", options: str = "") -> Path:
        """Make a file system on ``device`` and mount it."""
        run(f"mkfs.{fs_type}", "-q", "-F" if fs_type == "ext4" else "-f", device)
        mount_point = self.directory / f"mnt-{len(self.mounts)}"
        mount_point.mkdir()
        run("mount", *(["-o", options] if options else []), device, mount_point)
        self.mounts.append(mount_point)
        return mount_point

    def name(self) -> str:
        """A name for a volume that is unprotected when the scenario ends."""
        self.names.append(f"v{uuid4().hex[:6]}")
        return self.names[-1]

    def protect(self, device: str, recovery: str, *options: object) -> str:
        """Protect ``device``; returns the volume's name."""
        name = self.name()
        dmsnap(
            "protect", device, "--name", name, "--recovery", recovery, "--store", self.store(),
            *options,
        )  # fmt: skip
        return name

    def close(self) -> None:
        """Take down whatever the scenario left, our devices by their UUID prefix."""
        for mount_point in reversed(self.mounts):
            subprocess.run(["umount", "-R", mount_point], capture_output=True, check=False)
        for mount_point in Path("/run/dmsnap/points").glob("*"):
            subprocess.run(["umount", mount_point], capture_output=True, check=False)
        for _ in range(4):
            for row in dm_devices():
                subprocess.run(["dmsetup", "remove", row], capture_output=True, check=False)
        subprocess.run(["losetup", "-D"], capture_output=True, check=False)
        for state in ("/var/lib/dmsnap", "/run/dmsnap", str(self.directory)):
            subprocess.run(["rm", "-rf", state], check=True)


def dm_devices(prefix: str = "DMSNAP-") -> list[str]:
    """The names of the dm devices whose UUID begins with ``prefix``."""
    listing = run("dmsetup", "info", "-c", "--noheadings", "--separator", " ", "-o", "name,uuid")
    rows = [line.split() for line in listing.splitlines() if not line.startswith("No devices")]
    return [row[0] for row in rows if len(row) > 1 and row[1].startswith(prefix)]


@pytest.fixture(scope="session", autouse=True)
def modules() -> None:
    """What losetup and dmsetup need where no udev loads modules."""
    run("modprobe", "-a", "loop", "dm-mod")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab, and a check that it is left empty."""
    directory = SCRATCH / f"scenario-{uuid4().hex[:8]}"
    directory.mkdir(parents=True)
    scenario = Lab(directory)
    try:
        yield scenario
    finally:
        scenario.close()
    assert dm_devices() == []
