"""The runner: from a command line to COMMAND's exit status."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from harness import arguments, program, scratch, supplies
from harness.arguments import Options
from harness.errors import LAB_FAILED, LabError
from harness.guest import Guest, RunDirectory, run_directory, write_command
from harness.kernels import KERNELS
from harness.machine import Machine
from harness.relay import Relay, TimedOutError, raw_terminal
from harness.report import Report

CONSOLE_LINES = 200


class Interrupted(BaseException):
    """A signal asked the runner to end; no Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # cleaning up is not to be interrupted again
    raise Interrupted(number)


def _prepare(options: Options, run: RunDirectory) -> None:
    size = shutil.get_terminal_size()
    facts = {
        **supplies.facts(options.kernel, options.init),
        "LAB_ATTENDED": "0",
        "LAB_SHELL": str(int(options.shell)),
        "LAB_ROWS": str(size.lines),
        "LAB_COLUMNS": str(size.columns),
    }
    terminal = {"TERM": os.environ.get("TERM", "vt100")} if options.shell else {}
    always = supplies.environment(options.kernel, options.init)
    environment = {**terminal, **always, **options.environment}
    write_command(run.work, options.command, environment, facts)
    scratch.create(run.scratch)


def _explain(machine: Machine, options: Options, *, timed_out: bool) -> LabError:
    tail = machine.console().splitlines()[-CONSOLE_LINES:]
    print("\n".join(["--- console of the guest", *tail, "--- end of the console"]), file=sys.stderr)
    if timed_out:
        return LabError(
            f"The guest was ended: it ran longer than {options.timeout_seconds:.0f} seconds."
        )
    return LabError("The guest died without reporting the command's status.")


def _boot(options: Options, guest: Guest, run: RunDirectory, report: Report) -> int:
    begin = time.monotonic()
    timed_out = False

    def begun() -> None:
        report.detail(f"COMMAND began {time.monotonic() - begin:.1f} s after power on")

    with Machine(guest, run) as machine:
        with raw_terminal() if options.shell else contextlib.nullcontext():
            try:
                deadline = begin + options.timeout_seconds
                Relay(machine, begun).run(deadline, with_input=options.shell)
                machine.wait(1)
            except TimedOutError:
                timed_out = True
        status = machine.status()
        if status is None or timed_out:
            raise _explain(machine, options, timed_out=timed_out)
    report.detail(f"the guest ended after {time.monotonic() - begin:.1f} s")
    return status


def run(options: Options) -> int:
    """Do what the command line asks for and return the exit status."""
    report = Report(options.verbose)
    with run_directory(supplies.cache_directory() / "runs", options.scratch) as here:
        kernel, init, memory_mib = options.kernel, options.init, options.memory_mib
        guest = supplies.guest(
            report, here, kernel, init, memory_mib, install=options.install, flushes=options.flushes
        )
        _prepare(options, here)
        status = _boot(options, guest, here, report)
        left = here.work / "out"
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            if left.exists():
                copy = ["cp", "-a", "--sparse=always", f"{left}/.", str(options.out)]
                program.output(copy)
    return status


def main(argv: Sequence[str]) -> int:
    """Run the lab and return the exit status of the runner."""
    options = arguments.parse(argv)
    if options.list_kernels:
        print("\n".join(f"{each.name:6} {each.summary}" for each in KERNELS.values()))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return run(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        if error.hint:
            print(f"lab: {error.hint}", file=sys.stderr)
        return LAB_FAILED
    except BrokenPipeError:
        print("lab: nobody reads the output any more; the guest was ended.", file=sys.stderr)
        return LAB_FAILED
    except Interrupted as interrupted:
        print("lab: interrupted; the guest was ended.", file=sys.stderr)
        return 128 + interrupted.number
