"""What the scenarios share: disks on loop devices, dmsnap as users call it, judges.

Scenarios run as root inside a lab guest. Everything they make is taken down again, so that one
failed scenario does not spoil the next.
"""

import contextlib
import fcntl
import gc
import hashlib
import io
import json
import mmap
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from uuid import uuid4

import loop_disk
import pytest
from guest.standstill import Watch
from patience import until

from dmsnap._native import label as labels
from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli.main import main
from dmsnap.cli.output import Output
from dmsnap.errors import DmsnapError
from dmsnap.host import placeholder
from dmsnap.host.blockdev import open_shared
from dmsnap.host.mountinfo import mount_at
from dmsnap.recovery import backup_area
from dmsnap.service.journal import Plan

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

SCRATCH = Path("/scratch")
CATALOGUE = Path("/var/lib/dmsnap/catalogue.db")
MIB = 1024 * 1024
# How long what is bound to come may take on a machine that is slow and busy.
PATIENCE_SECONDS = 60
HANGS_SECONDS = 300
# Variants that are exhaustive may take so long by themselves, on the slowest kernel.
STANDS_STILL_SECONDS = {False: 420, True: 3600}
WATCH = pytest.StashKey[Watch]()
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
CLOSING_SECONDS = 10  # where a scenario failed, what it left may be held for good


def run(*argv: object, expected: int | None = 0, timeout: float = 300) -> str:
    """Run a program and return what it wrote to stdout; any other exit code fails the test."""
    completed = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert expected is None or completed.returncode == expected, (
        f"{' '.join(str(word) for word in argv)}: exit code {completed.returncode}, "
        f"expected {expected}\n{completed.stdout}\n{completed.stderr}"
    )
    return completed.stdout


def wait_until(
    what: str, condition: Callable[[], object], seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until something is so, and fail by its name when it does not come to be."""
    until(condition, what, seconds)


def administrator(*argv: object) -> str:
    """Run an LVM command; it makes the nodes itself where udev does not run."""
    without_udev = not Path("/run/udev/control").exists()
    return run(*(["env", "DM_DISABLE_UDEV=1"] if without_udev else []), *argv)


def dmsnap(*argv: object, expected: int | None = 0) -> Any:
    """Run a dmsnap command with ``--json``; its result, or its error object.

    In this process, by the entry point: starting Python anew takes a guest some seconds. What is
    about processes (signals, kills, start-up) uses :func:`dmsnap_process`.
    """
    words = [str(word) for word in argv]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main([*words, "--json"])
    assert expected is None or code == expected, (
        f"dmsnap {' '.join(words)}: exit code {code}, expected {expected}\n"
        f"{stderr.getvalue()}\n{stdout.getvalue()}"
    )
    return written(stdout.getvalue(), stderr.getvalue())


def written(stdout: str, stderr: str) -> Any:
    """A command's result, or its error, which comes after what was said beside it."""
    text = stdout or "".join(stderr.partition("{\n")[1:])
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
    left = size_bytes
    with (
        open(os.open(path, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as file,
        mmap.mmap(-1, MIB) as buffer,  # as aligned as O_DIRECT wants it
        memoryview(buffer) as view,
    ):
        while left != 0 and (length := file.readinto(view)):
            taken = length if left is None else min(length, left)
            digest.update(view[:taken])
            left = None if left is None else left - taken
    assert left in (None, 0), f"{path} is shorter than {size_bytes} bytes"
    return digest.hexdigest()


@dataclass
class Lab:
    """Disks, directories and protected volumes of one scenario."""

    directory: Path
    loops: list[str] = field(default_factory=list)
    mounts: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def disk(self, size_bytes: int, *, sector_bytes: int = 512, name: str = "") -> str:
        """A loop device over a sparse file."""
        image = self.directory / f"{name or 'disk'}-{len(self.loops)}.img"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        loop = loop_disk.attach(image, sector_bytes)
        self.loops.append(loop)
        return loop

    def store(self) -> str:
        """A directory for COW stores and era metadata."""
        path = self.directory / "store"
        path.mkdir(exist_ok=True)
        return str(path)

    def mounted(self, device: str, fs_type: str = "ext4", options: str = "") -> Path:
        """Make a file system on ``device`` and mount it. The kernel writes nothing by itself."""
        make_file_system(device, fs_type)
        mount_point = self.directory / f"mnt-{len(self.mounts)}"
        mount_point.mkdir()
        if options:
            run("mount", "-o", options, device, mount_point)
        else:
            loop_disk.mount(device, mount_point, fs_type)
        self.mounts.append(mount_point)
        return mount_point

    def group(self, *devices: str) -> str:
        """A volume group on ``devices``."""
        name = f"vg{uuid4().hex[:6]}"
        administrator("vgcreate", "-qq", "--yes", name, *devices)
        self.groups.append(name)
        return name

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
        """Take down whatever the scenario left, our devices by their UUID prefix.

        A program that starts costs a guest a tenth of a second: none is for nothing. What was
        killed lets go a moment later than it was reaped, and so does a loop device.
        """
        self.take_down()
        if loop_files():
            loop_disk.detach(loop_files().values())
            _tried_until(lambda: not self._attached(), lambda: None)
        for state in (Path("/var/lib/dmsnap"), Path("/run/dmsnap"), self.directory):
            if state.exists():
                shutil.rmtree(state)

    def take_down(self) -> None:
        """Mounts, our devices and volume groups, but not the disks that they lie on."""
        _tried_until(lambda: not self._mounted(), self._unmount)
        self._remove_devices()
        for group in self.groups:
            subprocess.run(
                ["vgremove", "-qq", "-ff", "-y", group], capture_output=True, check=False
            )
        self.groups.clear()
        self._remove_devices()  # what lay under an LV

    def _mounted(self) -> list[Path]:
        points = Path("/run/dmsnap/points").glob("*")
        return list(filter(os.path.ismount, [*reversed(self.mounts), *points]))

    def _unmount(self) -> None:
        for mount_point in self._mounted():
            loop_disk.unmount(mount_point)

    def _attached(self) -> list[str]:
        return [file for file in loop_files() if file.startswith(f"{self.directory}/")]

    @staticmethod
    def _remove_devices() -> None:
        """Those of ours that can go: no waiting lets a layer go from under somebody's LV."""

        def remove() -> None:
            subprocess.run(["dmsetup", "remove", *free_devices()], capture_output=True, check=False)

        _tried_until(lambda: not free_devices(), remove)


def make_file_system(device: str | Path, fs_type: str = "ext4", *options: object) -> None:
    """A file system whose inode tables are written: or else a kernel thread does it, some time."""
    kind = {"ext4": ["-F", "-E", "lazy_itable_init=0"]}.get(fs_type, ["-f"])
    run(f"mkfs.{fs_type}", "-q", *kind, *options, device)


def _tried_until(condition: Callable[[], bool], attempt: Callable[[], None]) -> None:
    """Try until it is so; whoever looks afterwards fails when it never came to be."""
    ends = time.monotonic() + CLOSING_SECONDS
    while not condition():
        attempt()
        if condition() or time.monotonic() > ends:
            return
        time.sleep(0.02)


def dm_devices(prefix: str = "DMSNAP-") -> list[str]:
    """The dm devices whose UUID begins with ``prefix``, each before those that it lies on."""
    found = []
    for device in Path("/sys/block").glob("dm-*"):
        with contextlib.suppress(OSError):  # EINVAL of one that is being removed
            name, uuid = ((device / "dm" / key).read_text().strip() for key in ("name", "uuid"))
            if uuid.startswith(prefix):
                found.append((height(device), name))
    return [name for _, name in sorted(found, reverse=True)]


def free_devices() -> list[str]:
    """Those of ours that nothing of others lies on, at any height: by ``dm_devices``' order."""
    free: list[str] = []
    for name in dm_devices():  # what lies on a device comes before it
        if set(holders(name)) <= set(free):
            free.append(name)
    return free


def holders(name: str) -> list[str]:
    """What lies on a dm device: the names of dm devices, the kernel's of others."""
    for device in Path("/sys/block").glob("dm-*"):
        with contextlib.suppress(OSError):
            if (device / "dm/name").read_text().strip() == name:
                return [name_of(holder) for holder in (device / "holders").iterdir()]
    return []


def name_of(device: Path) -> str:
    path = device / "dm/name"
    return path.read_text().strip() if path.exists() else device.name


def height(device: Path) -> int:
    """How many devices lie below one of /sys/block, one upon the other."""
    below = [Path("/sys/block") / path.name for path in (device / "slaves").glob("*")]
    return 1 + max(map(height, below), default=0)


def rarely(*values: object) -> "ParameterSet":
    """A variant that only ``--all`` runs: ``make test`` is to end within half an hour."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)


def checkered(*factors: Sequence[object]) -> "list[ParameterSet]":
    """Every other of the combinations of some factors' values; all of them with ``--all``.

    Each value is there, and of three factors each two of their values together.
    """
    found = []
    for indexed in product(*map(enumerate, factors)):
        case = [value for _, value in indexed]
        is_dark = sum(index for index, _ in indexed) % 2
        found.append(rarely(*case) if is_dark else pytest.param(*case))
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="what is marked exhaustive, too")


def pytest_configure(config: pytest.Config) -> None:
    seconds = STANDS_STILL_SECONDS[config.getoption("--all")]
    config.stash[WATCH] = Watch(seconds)


@pytest.fixture(autouse=True)
def watched(pytestconfig: pytest.Config) -> None:
    pytestconfig.stash[WATCH].begins()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Kills at the steps that matter are always there (test_jobs.py); all of them are many."""
    if config.getoption("--all"):
        return
    rare = [item for item in items if item.get_closest_marker("exhaustive")]
    config.hook.pytest_deselected(items=rare)
    items[:] = [item for item in items if item not in rare]


def pytest_collection_finish() -> None:
    """What is imported by now stays: each collection of garbage would look through all of it.

    Memory that is freed stays, too, the core's as well (``dms_memory_give_back``): a page that is
    asked for anew is a fault, and 16 MiB of them take a guest 30 ms in place of 2. What is measured
    of memory is of processes of their own.
    """
    gc.collect()
    gc.freeze()
    assert loop_disk.LIBC.mallopt(M_MMAP_THRESHOLD, 32 * MIB)
    assert loop_disk.LIBC.mallopt(M_TRIM_THRESHOLD, 1024 * MIB)


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


def planned(*argv: object) -> Plan:
    """The plan of a command, by a dry run: its steps by name, and which are final."""
    shown: list[Plan] = []
    with (
        patch.object(Output, "show_plan", lambda _output, plan: shown.append(plan)),
        # What main makes of pytest's stream would close it.
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        code = main([*map(str, argv), "--dry-run", "--json"])
    assert code == 0, argv
    (plan,) = shown
    return plan


def step_at(name: str, *argv: object) -> int:
    """Where in a command's plan a step is: others may come to stand before it."""
    return [step.name for step in planned(*argv).steps].index(name)


def refused(exit_code: int, *argv: object) -> str:
    """Run a command that must fail with ``exit_code`` and one sentence; returns that sentence."""
    error = dmsnap(*argv, expected=exit_code)
    sentence = str(error["error"])
    assert error["exit_code"] == exit_code
    assert sentence.strip()
    assert "\n" not in sentence
    assert "does not know" not in sentence, sentence
    return sentence


def label_on(recovery: str) -> dict[str, Any]:
    """A recovery volume's label, without the backup beside it: every command may write that."""
    label = dict(dmsnap("inspect", "label", recovery))
    del label["backup"]
    return label


def content_of(device: str | Path) -> str:
    """The SHA-256 of all of a device, but for the backup of the catalogue on a recovery volume.

    Replica, history and label are in it. A command that fails is recorded, and that is backed up.
    """
    with open_shared(Path(device)) as fd:
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        try:
            backup = backup_area.extent_of(labels.read(fd, size_bytes, str(device)), size_bytes)
        except DmsnapError:
            backup = None
        if backup is None:
            return sha256(device)
        with mmap.mmap(-1, labels.AREA_BYTES) as buffer:
            os.preadv(fd, [buffer], labels.offset(size_bytes))
            return f"{sha256(device, backup.offset_bytes)}, {hashlib.sha256(buffer).hexdigest()}"


@contextlib.contextmanager
def configured(*lines: str) -> Iterator[None]:
    """The configuration, within the block."""
    path = Path("/etc/dmsnap/dmsnap.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    try:
        yield
    finally:
        path.unlink()


def catalogue_rows(query: str) -> list[tuple[Any, ...]]:
    """Rows of the catalogue, read beside whoever uses it; none where there is no catalogue."""
    if not CATALOGUE.exists():
        return []
    with contextlib.closing(sqlite3.connect(CATALOGUE, timeout=PATIENCE_SECONDS)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []


def locks_held() -> list[str]:
    """The volumes whose lock somebody holds now."""
    held = []
    for path in sorted(Path("/run/dmsnap/locks").glob("*.lock")):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path.name)
    return held


def suspended() -> list[str]:
    """The dm devices that hold back I/O now.

    A snapshot that is loaded and was never activated counts as suspended: it holds up nobody.
    """
    found = []
    for device in Path("/sys/block").glob("dm-*"):
        with contextlib.suppress(OSError):  # EINVAL of one that is being removed
            name = (device / "dm/name").read_text().strip()
            if (device / "dm/suspended").read_text().strip() == "1" and "-point-" not in name:
                found.append(name)
    return sorted(found)


def loop_files() -> dict[str, str]:
    """The files that loop devices are attached to."""
    found = {}
    for attribute in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found[attribute.read_text().strip()] = attribute.parts[3]
    return found


def mount_lines() -> list[str]:
    """Every mount: where, what, its options and its file system's."""
    rows = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(" ".join([*row[3:6], *row[row.index("-") :]]) for row in rows)


def is_mounted(place: Path) -> bool:
    """Whether a file system is mounted there that is more than a placeholder for one."""
    found = mount_at(place)
    return found is not None and not placeholder.is_placeholder(found)


@dataclass(frozen=True)
class World:
    """All that a command which fails must leave as it was."""

    dm_tables: list[str]
    suspended: list[str]
    loops: dict[str, str]
    mounts: list[str]
    stores: list[str]
    logical_volumes: list[str]
    catalogue: dict[str, list[tuple[Any, ...]]]
    points: list[str]
    contents: dict[str, str]
    locks: list[str]


def world(lab: Lab, *devices: str | Path) -> World:
    """Look at everything; ``devices`` are read in full, but for the backup of the catalogue."""
    return World(
        dm_tables=sorted(run("dmsetup", "table").splitlines()),
        suspended=suspended(),
        loops=loop_files(),
        mounts=mount_lines(),
        stores=sorted(str(path) for path in (lab.directory / "store").rglob("*")),
        logical_volumes=run("lvs", "--noheadings", "-o", "vg_name,lv_name,lv_tags").splitlines()
        if lab.groups
        else [],
        catalogue={
            "volume": catalogue_rows(
                "select name, state, generation, backing, recovery, trial_point from volume "
                "where removed_ns is null order by name"
            ),
            "area": catalogue_rows("select role, path, generation from area order by path"),
            "point": catalogue_rows(
                "select id, area_id from point where deleted_ns is null order by id"
            ),
        },
        points=sorted(str(path) for path in Path("/run/dmsnap/points").glob("*")),
        contents={str(device): content_of(device) for device in devices},
        locks=locks_held(),
    )


@dataclass(frozen=True)
class Ended:
    """How a forked command ended: a negative ``code`` is the signal that killed it."""

    code: int
    stdout: str
    stderr: str


def dying(do: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """``do``, and the end of the process."""

    def done(*arguments: Any, **options: Any) -> Any:
        if not before:
            do(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return done


def forked(
    *argv: object,
    at: tuple[int, str] | None = None,
    send: tuple[int, ...] = (),
    after: float = 0,
    happens: Callable[[], object] | None = None,
) -> Ended:
    """Run a command in a process of its own without starting Python anew.

    ``at`` is a step's number and ``begun`` or ``done``: as soon as the journal has recorded that,
    the signals of ``send`` are sent, ``after`` seconds later where it says so, or ``happens`` is
    called in that process.
    """
    words = [str(word) for word in argv]
    streams = [SCRATCH / f"forked-{os.getpid()}.{name}" for name in ("out", "err")]
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        # At once it sends them to itself, so that not one line is run in between.
        hit = partial(os.write, tell, b"!") if after else partial(_send, os.getpid(), send)
        _run_forked(words, streams, at, happens or hit)
    os.close(tell)
    try:
        if after and _is_told(told, child):
            _send(child, send, after)
        status = _ended(child, f"dmsnap {' '.join(words)} hangs after {send} at {at}")
    finally:
        os.close(told)
    out, err = (path.read_text() for path in streams)
    return Ended(os.waitstatus_to_exitcode(status), out, err)


def _is_told(told: int, child: int) -> bool:
    """Wait until the command is where signals are sent; false when it ends before that."""
    end = os.pidfd_open(child)
    try:
        ready = select.select([told, end], [], [], HANGS_SECONDS)[0]
        return told in ready and os.read(told, 1) == b"!"
    finally:
        os.close(end)


def _ended(child: int, hangs: str) -> int:
    """How a child ended, which is killed when it does not."""
    end = os.pidfd_open(child)
    try:
        is_over = select.select([end], [], [], HANGS_SECONDS)[0]
    finally:
        os.close(end)
    if not is_over:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert is_over, hangs
    return status


def _run_forked(
    words: list[str], streams: list[Path], at: tuple[int, str] | None, hit: Callable[[], object]
) -> None:
    code = 99
    try:
        with streams[0].open("w") as out, streams[1].open("w") as err:
            sys.stdout, sys.stderr = out, err
            for descriptor, file in ((1, out), (2, err)):
                os.dup2(file.fileno(), descriptor)
            for number in (signal.SIGINT, signal.SIGTERM):
                # Behind the command's own handler: what comes when it is through finds it through.
                signal.signal(number, lambda *_: None)
            if at is not None:
                _signalled_at(at, hit)
            code = main([*words, "--json"])
    except BaseException:
        with streams[1].open("a") as err:
            traceback.print_exc(file=err)
    finally:
        os._exit(code)


def _signalled_at(at: tuple[int, str], hit: Callable[[], object]) -> None:
    recorded = jobs.record_step

    def record_step(
        catalogue: Catalogue, job_id: int, position: int, state: StepState, seconds: float | None
    ) -> None:
        recorded(catalogue, job_id, position, state, seconds)
        if (position, state) == at:
            hit()

    jobs.record_step = record_step


def _send(target: int, signals: tuple[int, ...], after: float = 0) -> None:
    """Signals for a process that is not reaped yet: its number is no other's."""
    for number in signals:
        time.sleep(after)
        os.kill(target, number)
