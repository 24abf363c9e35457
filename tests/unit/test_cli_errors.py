"""What is told of an error: a sentence, a hint, an exit code; a trace only when asked for."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dmsnap.cli import program
from dmsnap.cli.main import main
from dmsnap.errors import (
    BusyError,
    DmsnapError,
    ExitCode,
    InterruptedBySignal,
    TooSmallError,
)
from dmsnap.service.session import Session
from dmsnap.units import GIB


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make every command that needs a session raise."""

    def prepare(error: BaseException) -> None:
        def opened() -> Session:
            raise error

        monkeypatch.setattr(Session, "open", opened)

    return prepare


Raising = Callable[[BaseException], None]


def noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("error", "exit_code", "lines"),
    [
        (
            BusyError("/dev/sdb is in use: mounted on /srv", hint="unmount it"),
            ExitCode.BUSY,
            ["dmsnap: /dev/sdb is in use: mounted on /srv", "hint: unmount it"],
        ),
        (DmsnapError("no"), ExitCode.FAILURE, ["dmsnap: no"]),
        (
            noted(DmsnapError("no"), "resuming srv failed, too"),
            ExitCode.FAILURE,
            ["dmsnap: no", "dmsnap: resuming srv failed, too"],
        ),
        (
            InterruptedBySignal(signal.SIGINT),
            ExitCode.INTERRUPTED,
            ["dmsnap: interrupted; what was begun has been undone"],
        ),
        (
            InterruptedBySignal(signal.SIGTERM),
            ExitCode.TERMINATED,
            ["dmsnap: interrupted; what was begun has been undone"],
        ),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, ["dmsnap: interrupted"]),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            ExitCode.OS,
            ["dmsnap: cannot write the output: No space left on device"],
        ),
        (
            ZeroDivisionError("division by zero"),
            ExitCode.FAILURE,
            [
                "dmsnap: an error that dmsnap does not know: ZeroDivisionError: division by zero",
                "hint: please report it, with what the same command prints with --debug",
            ],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_a_sentence_and_a_code(
    raising: Raising,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    exit_code: ExitCode,
    lines: list[str],
) -> None:
    raising(error)
    assert program.main(["status"]) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == lines


def test_an_error_as_json(raising: Raising, capsys: pytest.CaptureFixture[str]) -> None:
    raising(noted(TooSmallError("/dev/sdb", GIB, 2 * GIB, "a replica"), "and more"))
    assert program.main(["status", "--json"]) == ExitCode.TOO_SMALL
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err) == {
        "error": "/dev/sdb has 1 GiB, a replica needs 2 GiB: 1073741824 bytes are missing",
        "hint": None,
        "exit_code": 5,
        "kind": "TooSmallError",
        "fields": {
            "device": "/dev/sdb",
            "size_bytes": GIB,
            "needed_bytes": 2 * GIB,
            "missing_bytes": GIB,
        },
        "notes": ["and more"],
    }


def test_a_usage_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["sync", "--json"]) == ExitCode.USAGE
    told = json.loads(capsys.readouterr().err)
    assert (told["exit_code"], told["kind"]) == (2, "UsageError")


@pytest.mark.parametrize("flags", [["--debug"], ["--debug", "--json"]])
def test_a_trace_only_with_debug(
    raising: Raising, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    raising(BusyError("in use"))
    program.main(["status"])
    assert "Traceback" not in capsys.readouterr().err
    program.main(["status", *flags])
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "in use" in told.splitlines()[-1] or "--json" in flags


def run(
    *arguments: str, stdout: int = subprocess.PIPE, unbuffered: bool = False
) -> "subprocess.Popen[str]":
    script = "import sys; from dmsnap.cli.main import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""},
    )


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_goes_away_is_no_error_to_tell_of(unbuffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with run("--help", stdout=writing, unbuffered=unbuffered) as process:
        os.close(writing)
        _, told = process.communicate(timeout=300)
    assert told == ""
    assert process.returncode == ExitCode.FAILURE


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_full_disk_under_the_output_is_a_sentence(unbuffered: bool) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        run("--help", stdout=full.fileno(), unbuffered=unbuffered) as process,
    ):
        _, told = process.communicate(timeout=300)
    assert told.rstrip() == "dmsnap: cannot write the output: No space left on device"
    assert process.returncode == ExitCode.OS


def test_no_standard_output_at_all() -> None:
    script = "import sys; from dmsnap.cli.main import main; sys.exit(main())"
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", script, "--help"]
    completed = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (completed.returncode, completed.stderr) == (ExitCode.OK, "")


def test_a_file_that_is_no_metadata_is_a_sentence(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\xa5" * 2**20)
    with run("inspect", "era", str(image), "--since", "1") as process:
        shown, told = process.communicate(timeout=300)
    assert shown == ""
    assert str(image) in told
    assert "Traceback" not in told
    assert process.returncode == ExitCode.CORRUPT


SLOW_IMPORT = """
import os, signal, sys
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Slow())
from dmsnap.cli.main import main
sys.exit(main(["status"]))
"""


def test_an_interrupt_while_it_loads_ends_it_without_a_trace() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", SLOW_IMPORT], capture_output=True, text=True, check=False
    )
    assert completed.returncode == -signal.SIGINT
    assert completed.stderr == ""


def test_interrupts_are_errors_again_once_it_has_loaded() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert main(["--help"]) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


LATE_SIGNALS = """
import os, signal, sys
from dmsnap.cli import program
from dmsnap.cli.main import main
def late():
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
program.drop_what_cannot_be_written = late
sys.argv = ["dmsnap", "--help"]
sys.exit(main())
"""


def test_a_signal_behind_the_command_does_not_change_how_it_ended() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", LATE_SIGNALS], capture_output=True, text=True, check=False
    )
    assert (completed.returncode, completed.stderr) == (ExitCode.OK, "")
    assert "Usage" in completed.stdout
