"""The window on a real kernel: the moment it takes, and what is left when it goes wrong."""

import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import MIB, Lab, run, sha256
from patience import PATIENCE_SECONDS, requests_under_way, until

from dmsnap._native import window
from dmsnap._native.exception_store import ExceptionStore
from dmsnap._native.window import WindowAction, WindowStep
from dmsnap.errors import DeadlineError, DmsnapError, OperatingSystemError
from dmsnap.extent import Extent
from dmsnap.host import counting

SIZE = 64 * MIB
# As late as a window may be asked to end; what is about deadlines has its own.
DEADLINE_MS = 60_000


class Stack:
    """front (era) over origin (snapshot-origin) over base (linear) over a loop device.

    The base is there to be suspended, which holds up all I/O above it. So is, when asked for, a
    device of its own for the metadata.
    """

    def __init__(self, lab: Lab, *, size_bytes: int = SIZE, metadata_device: bool = False) -> None:
        self.lab = lab
        self.key = uuid4().hex[:6]
        self.names: list[str] = []
        self.disk = lab.disk(size_bytes)
        self.metadata = lab.disk(8 * MIB)
        length = size_bytes // 512
        if metadata_device:
            table = f"0 {8 * MIB // 512} linear {self.metadata} 0"
            self.metadata = str(self.create("metadata", table))
        self.base = self.create("base", f"0 {length} linear {self.disk} 0")
        self.origin = self.create("origin", f"0 {length} snapshot-origin {self.base}")
        self.front = self.create("front", f"0 {length} era {self.metadata} {self.origin} 128")

    def name(self, role: str) -> str:
        return f"window-{self.key}-{role}"

    def uuid(self, role: str) -> str:
        return f"DMSNAP-test-{self.key}-{role}"

    def create(self, role: str, table: str) -> Path:
        run("dmsetup", "create", self.name(role), "--uuid", self.uuid(role), "--table", table)
        run("dmsetup", "mknodes")
        self.names.append(self.name(role))
        return Path("/dev/mapper") / self.name(role)

    def load_snapshot(self, role: str, store: str, chunk_size: int = 8) -> Path:
        """A snapshot that waits for its activation."""
        name = self.name(role)
        run("dmsetup", "create", name, "--uuid", self.uuid(role), "--notable")
        self.names.append(name)
        table = f"0 {SIZE // 512} snapshot {self.base} {store} P {chunk_size}"
        run("dmsetup", "load", name, "--table", table)
        run("dmsetup", "mknodes")
        return Path("/dev/mapper") / name

    def remove(self, role: str) -> None:
        run("dmsetup", "remove", "--retry", self.name(role))
        self.names.remove(self.name(role))

    def steps(self, *snapshots: str) -> list[WindowStep]:
        return [
            WindowStep(self.uuid("front"), WindowAction.SUSPEND),
            WindowStep(self.uuid("origin"), WindowAction.SUSPEND_NO_FREEZE),
            *(WindowStep(self.uuid(role), WindowAction.RESUME) for role in snapshots),
            WindowStep(self.uuid("origin"), WindowAction.RESUME),
            WindowStep(self.uuid("front"), WindowAction.RESUME),
        ]

    def suspended(self, *roles: str) -> list[str]:
        """Those that are suspended, by sysfs, which asks no target."""
        return [
            role
            for role in roles or ("front", "origin")
            if Path(f"/sys/block/dm-{self.minor(role)}/dm/suspended").read_text() == "1\n"
        ]

    def minor(self, role: str) -> int:
        return os.minor((Path("/dev/mapper") / self.name(role)).stat().st_rdev)

    def check_usable(self) -> None:
        """All resumed, and the front takes a write and gives it back."""
        assert self.suspended() == []
        data = os.urandom(4096)
        fd = os.open(self.front, os.O_RDWR)
        try:
            os.pwrite(fd, data, SIZE - 4096)
            os.fsync(fd)
            assert os.pread(fd, 4096, SIZE - 4096) == data
        finally:
            os.close(fd)

    def close(self) -> None:
        for name in self.names:
            subprocess.run(["dmsetup", "resume", name], capture_output=True, check=False)
        for name in reversed(self.names):
            run("dmsetup", "remove", "--retry", name)


@pytest.fixture
def stack(lab: Lab) -> Iterator[Stack]:
    opened = Stack(lab)
    try:
        yield opened
    finally:
        for mount_point in reversed(lab.mounts):
            run("umount", mount_point)
        lab.mounts.clear()
        opened.close()


@contextmanager
def writing(stack: Stack, block_bytes: int = 4096) -> Iterator[None]:
    """Direct writes at full rate at places that jump about the front."""
    begun, ends = threading.Event(), threading.Event()

    def write() -> None:
        fd = os.open(stack.front, os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, block_bytes)  # aligned, as O_DIRECT wants it
        place = 1
        while not ends.is_set():
            place = place * 48271 % 0x7FFFFFFF
            offset = place % (SIZE // block_bytes - 1) * block_bytes
            os.pwrite(fd, buffer, offset)
            begun.set()
        os.close(fd)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(PATIENCE_SECONDS)
        yield
    finally:
        ends.set()
        thread.join()


@pytest.mark.selection
def test_what_is_counted_in_a_window_is_exact(stack: Stack) -> None:
    """Each device counts the same, dm's or not, whatever is written before it and after."""
    every = (stack.front, stack.origin, stack.base, Path(stack.disk))
    devices = [each.stat().st_rdev for each in every]
    ahead, written = set(), set()
    with writing(stack):
        for _ in range(100):
            with counting.opened(devices) as counters:
                times = window.run(stack.steps(), DEADLINE_MS, counters=counters)
            assert [each.in_flight for each in times.counted if each] == [False] * 4
            front, *below = (each.sectors_written for each in times.counted if each)
            ahead.add(tuple(front - each for each in below))
            written.add(front)
    assert (len(ahead), len(written)) == (1, 100)
    with counting.opened([os.makedev(259, 4095)]) as counters:
        assert window.run(stack.steps(), DEADLINE_MS, counters=counters).counted == (None,)


def test_what_is_held_is_suspended_still(stack: Stack) -> None:
    """And what waits in it is written when the caller lets go."""
    front, origin = (stack.uuid(role) for role in ("front", "origin"))
    steps = [
        WindowStep(front, WindowAction.SUSPEND_NO_FREEZE),
        WindowStep(origin, WindowAction.HOLD),
        WindowStep(front, WindowAction.RESUME),
    ]
    with writing(stack):
        window.run(steps, DEADLINE_MS)
        try:
            until(lambda: requests_under_way(stack.name("front")) > 0, "a write waits")
            assert stack.suspended() == ["origin"]
        finally:
            run("dmsetup", "resume", stack.name("origin"))
    stack.check_usable()


@pytest.mark.selection
@pytest.mark.parametrize("block_bytes", [4096, 1 * MIB])
def test_the_point_is_the_moment(stack: Stack, block_bytes: int) -> None:
    """Every chunk of every later write is kept, of writes much larger than a chunk too."""
    run("dd", "if=/dev/urandom", f"of={stack.front}", "bs=1M", "count=64", "conv=fsync")
    before = sha256(stack.front)
    store = stack.lab.disk(SIZE + 8 * MIB)
    point = stack.load_snapshot("point", store)
    times = window.run(stack.steps("point"), DEADLINE_MS)
    run(
        "dd", "if=/dev/urandom", f"of={stack.front}", f"bs={block_bytes}",
        f"count={16 * MIB // block_bytes}", "oflag=direct",
    )  # fmt: skip
    assert sha256(point) == before
    assert sha256(stack.front) != before
    assert 0 < times.seconds < DEADLINE_MS / 1000
    assert sum(step.seconds for step in times.steps) <= times.seconds
    stack.remove("point")
    with (
        open(store, "rb") as file,
        ExceptionStore.open(file.fileno(), 0, SIZE + 8 * MIB, store) as kept,
    ):
        assert list(kept.extents()) == [Extent(0, 16 * MIB)]


def test_a_file_system_in_use(stack: Stack) -> None:
    """Windows under a workload: each point is a clean file system, with what was synced before."""
    mount_point = stack.lab.mounted(str(stack.front))
    begun, ends = threading.Event(), threading.Event()

    def work() -> None:
        number = 0
        while not ends.is_set():
            number = (number + 1) % 200
            (mount_point / f"file-{number}").write_bytes(os.urandom(1000 + 97 * number))
            begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert begun.wait(PATIENCE_SECONDS)
        for number in range(5):
            role = f"point-{number}"
            (mount_point / "mark").write_text(role)
            os.sync()
            point = stack.load_snapshot(role, stack.lab.disk(SIZE + 8 * MIB))
            window.run(stack.steps(role), DEADLINE_MS)
            run("e2fsck", "-fn", point)
            assert run("debugfs", "-R", "cat /mark", point) == role
            stack.remove(role)
    finally:
        ends.set()
        thread.join()
    assert stack.suspended() == []


LOOP = textwrap.dedent("""
    import sys
    from dmsnap._native import window
    from dmsnap._native.window import WindowAction, WindowStep
    front, origin, deadline_ms = sys.argv[1], sys.argv[2], int(sys.argv[3])
    steps = [
        WindowStep(front, WindowAction.SUSPEND),
        WindowStep(origin, WindowAction.SUSPEND_NO_FREEZE),
        WindowStep(origin, WindowAction.RESUME),
        WindowStep(front, WindowAction.RESUME),
    ]
    print("begins", flush=True)
    while True:
        window.run(steps, deadline_ms)
""")


@contextmanager
def windows_without_end(stack: Stack, deadline_ms: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [
            sys.executable, "-c", LOOP, stack.uuid("front"), stack.uuid("origin"),
            str(deadline_ms),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def state_of(path: Path) -> str:
    """The state of a process or thread, by its directory in /proc (proc(5): R, S, D, T, Z)."""
    return (path / "stat").read_text().rpartition(")")[2].split()[0]


def stopped_inside(stack: Stack, process: subprocess.Popen[bytes]) -> list[str]:
    """Stop a process when it is inside a window; what is suspended then."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        while not stack.suspended() and time.monotonic() < ends:
            pass
        process.send_signal(signal.SIGSTOP)
        # It stops on its way out of the kernel, which an ioctl may delay.
        until(lambda: state_of(Path(f"/proc/{process.pid}")) in "TZ", "it has stopped")
        if inside := stack.suspended():
            return inside
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
    raise AssertionError("it was never seen inside a window")


def watchdogs() -> list[str]:
    return run("sh", "-c", "pgrep -x dmsnap-watchdog || true").split()


def wait_no_watchdog() -> None:
    until(lambda: not watchdogs(), "no watchdog is left")


def test_the_process_is_stopped_in_the_window(stack: Stack) -> None:
    """A process that cannot go on: the deadline ends it, and it learns that when it goes on."""
    # Long enough for every window that is not stopped.
    with writing(stack), windows_without_end(stack, 8000) as process:
        stopped_inside(stack, process)
        until(lambda: stack.suspended() == [], "all is resumed")
        assert state_of(Path(f"/proc/{process.pid}")) == "T"
        process.send_signal(signal.SIGCONT)
        assert process.stderr is not None
        assert process.wait(timeout=120) == 1
        assert b"DeadlineError" in process.stderr.read()
    stack.check_usable()
    wait_no_watchdog()


def run_late(stack: Stack, deadline_ms: int) -> tuple[Exception | None, float]:
    begin = time.monotonic()
    try:
        window.run(stack.steps(), deadline_ms)
    except DmsnapError as error:
        return error, time.monotonic() - begin
    return None, time.monotonic() - begin


def test_the_deadline_interrupts_a_suspend_that_waits_for_io(stack: Stack) -> None:
    """I/O in flight never ends, since the device below is suspended: the window must not hang.

    A table that was loaded does not go live then: neither at once, nor when the disk answers, as it
    would if the front had been resumed while its suspend was under way.
    """
    before = run("dmsetup", "table", stack.name("front"))
    table = f"0 {SIZE // 512} linear {stack.origin} 0"
    run("dmsetup", "load", stack.name("front"), "--table", table)
    run("dmsetup", "suspend", stack.name("base"))
    with subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={stack.front}", "bs=4k", "count=1", "oflag=direct"],
        stderr=subprocess.DEVNULL,
    ) as writer:
        try:
            until(lambda: requests_under_way(stack.name("front")), "dd waits for the disk")
            error, seconds = run_late(stack, 300)
            still_below = stack.suspended("front", "origin", "base")
        finally:
            run("dmsetup", "resume", stack.name("base"))
        assert writer.wait(timeout=120) == 0
    assert isinstance(error, DeadlineError)
    assert seconds >= 0.3
    assert still_below == ["base"]
    wait_no_watchdog()
    stack.check_usable()
    assert run("dmsetup", "table", stack.name("front")) == before
    assert run("dmsetup", "table", "--inactive", stack.name("front")) != ""
    run("dmsetup", "clear", stack.name("front"))


def test_the_deadline_passes_while_a_file_system_freezes(stack: Stack) -> None:
    """What no signal can interrupt ends late, and everything is resumed then."""
    mount_point = stack.lab.mounted(str(stack.front))
    (mount_point / "dirty").write_bytes(os.urandom(MIB))
    run("dmsetup", "suspend", stack.name("base"))
    freezer = Path(f"/proc/self/task/{threading.get_native_id()}")

    def resume_late() -> None:
        try:
            until(lambda: is_held_up(freezer), "the file system freezes")
        finally:
            run("dmsetup", "resume", stack.name("base"))

    late = threading.Thread(target=resume_late)
    late.start()
    error, seconds = run_late(stack, 200)
    late.join()
    assert isinstance(error, DeadlineError)
    assert seconds > 1
    assert stack.suspended() == []
    (mount_point / "after").write_bytes(b"x")
    os.sync()
    wait_no_watchdog()


def is_held_up(thread: Path) -> bool:
    """Whether a thread waits in the kernel, where no signal reaches it, for a second on end."""
    ends = time.monotonic() + 1
    while state_of(thread) == "D":
        if time.monotonic() >= ends:
            return True
        time.sleep(0.01)
    return False


def test_a_device_that_hangs_holds_up_no_other(stack: Stack) -> None:
    """The era metadata of one are gone, to which its suspend writes, and the other is frozen."""
    other = Stack(stack.lab, metadata_device=True)
    steps = [
        WindowStep(stack.uuid("front"), WindowAction.SUSPEND),
        WindowStep(other.uuid("front"), WindowAction.SUSPEND),
        WindowStep(other.uuid("front"), WindowAction.RESUME),
        WindowStep(stack.uuid("front"), WindowAction.RESUME),
    ]
    errors: list[DmsnapError] = []

    def run_late() -> None:
        try:
            window.run(steps, 2000)
        except DmsnapError as error:
            errors.append(error)

    thread = threading.Thread(target=run_late)
    run("dmsetup", "suspend", other.name("metadata"))
    try:
        thread.start()
        until(lambda: other.suspended("front"), "the other waits for its metadata")
        until(lambda: not stack.suspended("front"), "the one is resumed")
        assert other.suspended("front")
        assert errors == []
        stack.check_usable()
    finally:
        run("dmsetup", "resume", other.name("metadata"))
        thread.join()
    assert [type(error) for error in errors] == [DeadlineError]
    other.check_usable()
    stack.check_usable()
    wait_no_watchdog()
    other.close()


def test_a_step_that_fails(stack: Stack) -> None:
    """Two snapshots of one COW store: the kernel refuses to resume the second."""
    store = stack.lab.disk(16 * MIB)
    stack.load_snapshot("first", store)
    window.run(stack.steps("first"), DEADLINE_MS)
    stack.load_snapshot("second", store)
    with pytest.raises(OperatingSystemError, match=r"step 3, the resume of .*second"):
        window.run(stack.steps("second"), DEADLINE_MS)
    stack.check_usable()
    stack.remove("second")
    wait_no_watchdog()


def test_what_cannot_begin_changes_nothing(stack: Stack) -> None:
    with pytest.raises(OperatingSystemError, match="looking for the device"):
        window.run(stack.steps("nothing"), DEADLINE_MS)
    run("dmsetup", "suspend", "--nolockfs", stack.name("origin"))
    with pytest.raises(OperatingSystemError, match="suspended already"):
        window.run(stack.steps(), DEADLINE_MS)
    assert stack.suspended() == ["origin"]
    run("dmsetup", "resume", stack.name("origin"))
    stack.check_usable()


def test_a_signal_waits_until_the_end(stack: Stack) -> None:
    """SIGINT as soon as the front is suspended: the window is whole, then it is noticed."""
    ready = threading.Event()

    def interrupt() -> None:
        ready.wait()
        while not stack.suspended():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    def windows_without_end_here() -> None:
        with writing(stack):
            ready.set()
            while True:
                window.run(stack.steps(), DEADLINE_MS)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        windows_without_end_here()
    thread.join()
    stack.check_usable()
