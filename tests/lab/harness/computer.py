"""A guest whose disks outlive its boots: it is rebooted, its plug is pulled, and it boots again."""

import json
import select
import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import program, scratch, supplies
from harness.arguments import DEFAULT_MEMORY_MIB, Init
from harness.cable import Plug
from harness.errors import LabError
from harness.guest import Guest, RunDirectory, run_directory, write_command
from harness.kernels import everyday
from harness.machine import DISKS, Machine
from harness.relay import BEGIN
from harness.report import Report

ATTENDANT = ("python3", "/lab/guest/attendant")
BOOT_SECONDS = 600  # a shared host may give a guest a tenth of a processor
COMMAND_SECONDS = 300
POWER_OFF_SECONDS = 300
REPORT_SHARE = 0.9  # of the time a request may take: then the guest says what hangs
CONSOLE_LINES = 60
CHUNK_BYTES = 1 << 12

# The plug is pulled by what records steps.
DYING = """
import threading
from dmsnap.catalogue import jobs
from dmsnap.cli.main import main
begun, recorded, watched = jobs.begin, jobs.record_step, set()
def begin(catalogue, operation, *rest, **named):
    job_id = begun(catalogue, operation, *rest, **named)
    if {operation!r} in (None, operation):
        watched.add(job_id)
    return job_id
def record_step(catalogue, job_id, position, state, seconds):
    is_it = job_id in watched and position == {position}
    if {later} is not None and is_it and str(state) != {state!r}:
        pull_plug()  # the step was shorter this time: it is cut off all the same
    recorded(catalogue, job_id, position, state, seconds)
    if is_it and str(state) == {state!r}:
        if {later} is None:
            pull_plug()
        threading.Timer({later}, pull_plug).start()
jobs.begin, jobs.record_step = begin, record_step
main({words!r})
if {later} is not None:
    pull_plug()
"""


class GuestDiedError(LabError):
    """The guest ended while something was being done in it."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command in the guest came to; a negative status is the signal that killed it."""

    status: int
    stdout: str
    stderr: str


@dataclass(slots=True)
class Computer:
    """A guest with disks, switched off or on. Made by :func:`computer`.

    What is written to its root file system, to /scratch and to its disks is there after the next
    boot, as far as the guest had given it to the disks; /run and /tmp are not.
    """

    guest: Guest
    directory: RunDirectory
    disks: Mapping[str, Path]
    _machine: Machine | None = None
    _requests: int = 0
    _received: bytes = field(default=b"", init=False)

    # switching it on and off

    def boot(self, *, without: Collection[str] = ()) -> None:
        """Switch it on, some disks not plugged in, and wait until it does what it is asked for."""
        if self._machine is not None:
            raise LabError("The guest is running already.")
        plugged = (None if name in without else image for name, image in self.disks.items())
        self.guest = replace(self.guest, disks=tuple(plugged))
        (self.directory.work / "status").unlink(missing_ok=True)
        self._received = b""
        self._machine = Machine(self.guest, self.directory)
        self._machine.start()
        if not self._receive(BEGIN, BOOT_SECONDS):
            raise self._died("The guest did not boot.")

    def pull_plug(self) -> None:
        """Switch it off this instant: what the guest had not given to its disks is lost."""
        machine, self._machine = self._machine, None
        if machine is not None:
            machine.kill()
            machine.channel.close()

    def power_off(self) -> None:
        """Shut it down in order: systemd stops its units, file systems are unmounted or synced."""
        orderly = self.guest.init == "systemd"
        command = "systemctl poweroff" if orderly else "sync && poweroff --force --force --no-sync"
        self._send({"argv": ["sh", "-c", command]}, POWER_OFF_SECONDS)
        if not self._receive_end(POWER_OFF_SECONDS):
            raise self._died("The guest did not shut down.")
        self.pull_plug()

    def reboot(self, *, without: Collection[str] = ()) -> None:
        """Shut it down in order and switch it on again."""
        self.power_off()
        self.boot(without=without)

    # its disks while it is off

    def save(self) -> None:
        """Keep all disks as they are now, in place of what was kept before."""
        self._copy(self.directory.path, self._saved)

    def restore(self) -> None:
        """Have all disks as they were when they were kept."""
        self._copy(self._saved, self.directory.path)

    @property
    def _saved(self) -> Path:
        return self.directory.path / "saved"

    def _copy(self, source: Path, destination: Path) -> None:
        if self._machine is not None:
            raise LabError("The guest is running.")
        destination.mkdir(exist_ok=True)
        for image in (self.directory.scratch, *self.disks.values()):
            argv = ["cp", "--sparse=always", "--reflink=auto"]
            paths = [str(directory / image.name) for directory in (source, destination)]
            program.output([*argv, *paths], env={"PATH": "/usr/bin:/bin"})

    # what is done in it while it is on

    def run(self, *argv: object, expected: int = 0, timeout: float = COMMAND_SECONDS) -> str:
        """Run a program and return what it wrote to stdout; another status is an error."""
        return self._checked({"argv": [str(word) for word in argv]}, expected, timeout).stdout

    def shell(self, script: str, *, expected: int = 0, timeout: float = COMMAND_SECONDS) -> str:
        """Run a shell script that ends at the first command that fails."""
        return self.run("bash", "-euc", script, expected=expected, timeout=timeout)

    def python(self, code: str, *, expected: int = 0, timeout: float = COMMAND_SECONDS) -> str:
        """Run Python code in a process that has dmsnap imported already.

        ``pull_plug()`` in it ends the guest this instant: see :meth:`dies`.
        """
        return self._checked({"python": code}, expected, timeout).stdout

    def dmsnap(self, *argv: object, expected: int = 0, timeout: float = COMMAND_SECONDS) -> Any:
        """Run a dmsnap command with ``--json``; returns its result, or its error object."""
        words = [*(str(word) for word in argv), "--json"]
        code = f"import sys; from dmsnap.cli.main import main; sys.exit(main({words!r}))"
        done = self._checked({"python": code}, expected, timeout, named=shlex.join(words))
        # An error comes after what was said beside it.
        text = done.stdout or "".join(done.stderr.partition("{\n")[1:])
        return json.loads(text) if text.strip() else None

    def dies(self, code: str, *, timeout: float = COMMAND_SECONDS) -> None:
        """Run Python code that ends the guest with ``pull_plug()``; it is off afterwards."""
        self._send({"python": code}, timeout)
        if not self._receive_end(timeout):
            raise LabError("The guest lives on.")
        self.pull_plug()

    def dies_at(
        self,
        words: Sequence[str],
        position: int,
        state: str,
        *,
        later: float | None = None,
        operation: str | None = None,
    ) -> None:
        """Run a dmsnap command that ends the guest as soon as the journal has recorded a step so.

        ``later``: so many seconds after that, or when the journal is to record anything else of the
        step, or at the end of the command, whichever comes first. ``operation``: of that job alone,
        where a command begins more than one.
        """
        code = DYING.format(
            words=list(words), position=position, state=state, later=later, operation=operation
        )
        self.dies(code)

    def device(self, name: str) -> str:
        """Return the device node of a disk in the guest."""
        number = list(self.disks).index(name) + 1
        return DISKS[self.guest.kernel.machine](number)

    def console(self) -> str:
        """Return what kernel and boot wrote on the console, of all boots."""
        return self.directory.console.read_text(errors="replace")

    # the channel

    def _checked(
        self, request: dict[str, Any], expected: int, timeout: float, named: str | None = None
    ) -> Done:
        self._send(request, timeout)
        number = f"{self._requests}\n".encode()
        if not self._receive(number, timeout):
            raise self._died(f"The guest did not answer within {timeout:.0f} s: {named or request}")
        done = self._reply()
        if done.status != expected:
            what = named or request.get("python") or shlex.join(request["argv"])
            raise AssertionError(
                f"{what}: status {done.status}, expected {expected}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def _send(self, request: dict[str, Any], timeout: float) -> None:
        if self._machine is None:
            raise LabError("The guest is switched off.")
        self._requests += 1
        request["report_after_seconds"] = timeout * REPORT_SHARE
        (self.directory.work / f"request-{self._requests}").write_text(json.dumps(request))
        self._machine.channel.sendall(f"{self._requests}\n".encode())

    def _reply(self) -> Done:
        path = self.directory.work / f"reply-{self._requests}"
        return Done(**json.loads(path.read_text()))

    def _receive(self, awaited: bytes, seconds: float) -> bool:
        """Read until something awaited has come; false: the guest died, or time is up."""
        ends = time.monotonic() + seconds
        while awaited not in self._received:
            piece = self._piece(ends)
            if not piece:
                return False
            self._received += piece
        self._received = self._received.partition(awaited)[2]
        return True

    def _receive_end(self, seconds: float) -> bool:
        """Read until the guest is gone; false if it still runs after a while."""
        ends = time.monotonic() + seconds
        while piece := self._piece(ends):
            self._received += piece
        return piece == b""

    def _piece(self, ends: float) -> bytes | None:
        """What comes next: nothing when the guest is gone, None when time is up."""
        machine = self._machine
        if machine is None:
            raise LabError("The guest is switched off.")
        if not select.select([machine.channel], [], [], max(0, ends - time.monotonic()))[0]:
            return None
        try:
            return machine.channel.recv(CHUNK_BYTES)
        except ConnectionError:
            return b""

    def _died(self, sentence: str) -> GuestDiedError:
        tail = "\n".join(self.console().splitlines()[-CONSOLE_LINES:])
        self.pull_plug()
        late = self.directory.work / f"late-{self._requests}"
        places = late.read_text() if late.exists() else ""
        waiting = f"\nWhat its processes waited for:\n{places}" if places else ""
        return GuestDiedError(f"{sentence} The end of its console:\n{tail}{waiting}")


@contextmanager
def computer(
    disks: Mapping[str, int],
    *,
    init: Init = "systemd",
    memory_mib: int = DEFAULT_MEMORY_MIB,
    plug: Plug | None = None,
    verbose: bool = False,
) -> Iterator[Computer]:
    """Make a computer with empty disks of so many bytes, switched off; gone at the end. Root.

    In the guest the first disk is the second one of the machine: ask :meth:`Computer.device`. A
    cable plugged in is the network device ``vec0``, which has no address yet.
    """
    chosen = everyday()
    with run_directory(supplies.cache_directory() / "runs", None) as directory:
        images = {name: directory.path / f"{name}.img" for name in disks}
        for name, size_bytes in disks.items():
            with images[name].open("wb") as file:
                file.truncate(size_bytes)
        report = Report(verbose)
        guest = supplies.guest(report, directory, chosen, init, memory_mib, install=True)
        guest = replace(guest, keep=True, plug=plug)
        facts = {**supplies.facts(chosen, init), "LAB_ATTENDED": "1", "LAB_SHELL": "0"}
        write_command(directory.work, ATTENDANT, supplies.environment(chosen, init), facts)
        scratch.create(directory.scratch)
        made = Computer(guest, directory, images)
        try:
            yield made
        finally:
            made.pull_plug()
