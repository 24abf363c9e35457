"""The runner's command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.kernels import DEFAULT, KERNELS, Kernel

Init = Literal["minimal", "udev", "systemd"]

DESCRIPTION = (
    "Boot a fresh guest, run COMMAND in it as root from the checkout, exit with its status."
)
EPILOG = (
    "Options end where COMMAND begins. In the guest the checkout is /src, read-only; /scratch is a "
    "disk; what COMMAND leaves in /out comes back with --out. Exit status 125 and a sentence on "
    "stderr: the lab failed, not COMMAND."
)
DEFAULT_MEMORY_MIB = 2048
DEFAULT_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Options:
    """One run of the lab."""

    kernel: Kernel
    init: Init
    memory_mib: int
    timeout_seconds: float
    shell: bool
    verbose: bool
    install: bool
    flushes: bool
    out: Path | None
    scratch: Path | None
    environment: dict[str, str]
    command: tuple[str, ...]
    list_kernels: bool = field(default=False)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than zero")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/lab/run", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False
    )
    parser.add_argument("--kernel", choices=tuple(KERNELS), default=DEFAULT)
    parser.add_argument("--list-kernels", action="store_true", help="print the kernels and end")
    init = parser.add_mutually_exclusive_group()
    init.add_argument(
        "--systemd", action="store_true", help="boot systemd, udev and D-Bus; COMMAND is a service"
    )
    init.add_argument("--udev", action="store_true", help="the minimal init, and udev")
    parser.add_argument("--memory", type=_positive, metavar="MIB", default=DEFAULT_MEMORY_MIB)
    parser.add_argument(
        "--timeout", type=_positive, metavar="S", default=None, help="600 if COMMAND is no shell"
    )
    parser.add_argument(
        "--shell", action="store_true", help="an interactive shell on this terminal"
    )
    parser.add_argument(
        "--env", type=_assignment, action="append", metavar="NAME=VALUE", default=[]
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="receives the guest's /out")
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="FILE",
        help="keep the scratch disk in FILE, or use it again",
    )
    parser.add_argument(
        "--no-install", action="store_true", help="boot without building and installing dmsnap"
    )
    parser.add_argument(
        "--flush",
        action="store_true",
        help="have the guest wait for the host's disk when it flushes its own: for measurements",
    )
    parser.add_argument("--verbose", action="store_true", help="say what takes how long")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser


def parse(argv: Sequence[str]) -> Options:
    """Return what the command line asks for; a wrong one ends the program with status 2."""
    parser = _parser()
    found = parser.parse_args(argv)
    command = tuple(found.command[1:] if found.command[:1] == ["--"] else found.command)
    if not (command or found.shell or found.list_kernels):
        parser.error("COMMAND is missing (or --shell)")
    timeout = found.timeout
    if timeout is None:
        timeout = float("inf") if found.shell else DEFAULT_TIMEOUT_SECONDS
    return Options(
        kernel=KERNELS[found.kernel],
        init="systemd" if found.systemd else "udev" if found.udev else "minimal",
        memory_mib=found.memory,
        timeout_seconds=timeout,
        shell=found.shell,
        verbose=found.verbose,
        install=not found.no_install,
        flushes=found.flush,
        out=found.out,
        scratch=found.scratch,
        environment=dict(found.env),
        command=command or ("bash",),
        list_kernels=found.list_kernels,
    )
