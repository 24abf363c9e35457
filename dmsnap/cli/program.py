"""Parse, run, turn every error into a sentence and an exit code."""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import click

from dmsnap.cli import json_value, terminal_text
from dmsnap.cli.grammar import FLAGS, build
from dmsnap.cli.output import Output, whole
from dmsnap.cli.parser import ROOT
from dmsnap.errors import DmsnapError, ExitCode, InterruptedBySignal
from dmsnap.host.signals import interruptible
from dmsnap.version import __version__

PROGRAM = "dmsnap"
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags that may stand anywhere, and the arguments without them."""

    json: bool
    debug: bool
    arguments: tuple[str, ...]

    @classmethod
    def split(cls, arguments: Sequence[str]) -> Self:
        """Take the flags out of ``arguments``; behind ``--`` nothing is a flag."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        options = arguments[:end]
        rest = [word for word in options if word not in ("--json", "--debug")]
        return cls("--json" in options, "--debug" in options, (*rest, *arguments[end:]))


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told of an error."""

    sentence: str
    exit_code: int
    hint: str | None = None
    kind: str = ""
    fields: dict[str, object] | None = None
    notes: tuple[str, ...] = ()


def command() -> click.Command:
    """The whole command line, as click has it."""
    root = build(ROOT)
    root.params += [
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Print the version and exit.",
        ),
        *FLAGS,
    ]
    return root


def _version(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if given:
        output = context.find_object(Output)
        assert output is not None  # noqa: S101 - run() passes it
        output.line(f"{PROGRAM} {__version__}")
        context.exit()


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    flags = Flags.split(arguments)
    sys.stdout = whole(sys.stdout)
    output = Output(json=flags.json)
    try:
        told = logging.StreamHandler()
        told.setFormatter(terminal_text.Formatter(f"{PROGRAM}: %(message)s"))
        level = logging.DEBUG if flags.debug else logging.WARNING
        logging.basicConfig(level=level, handlers=[told], force=True)
        # To the last line written: what was done is done, and says so, whatever comes behind it.
        with interruptible():
            exit_code = run(flags, output)
            output.out.flush()
    except BrokenPipeError:
        # Whoever read has read enough.
        exit_code = ExitCode.FAILURE
    except (Exception, KeyboardInterrupt, InterruptedBySignal) as error:
        exit_code = report(error, flags, output)
    drop_what_cannot_be_written()
    return exit_code


def drop_what_cannot_be_written() -> None:
    """Python would complain of the same again at its end, and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(flags: Flags, output: Output) -> int:
    """Parse and call the action."""
    root = command()
    try:
        with root.make_context(PROGRAM, list(flags.arguments), obj=output) as context:
            return int(root.invoke(context) or ExitCode.OK)
    except click.exceptions.Exit as end:
        return end.exit_code


def report(error: BaseException, flags: Flags, output: Output) -> int:
    """Tell of ``error`` on standard error; returns the exit code."""
    if flags.debug:
        traceback.print_exception(error, file=output.err)
    failure = explain(error)
    if flags.json:
        output.err.write(json_value.dumps(_as_json(failure)) + "\n")
        return failure.exit_code
    output.warn(f"{PROGRAM}: {failure.sentence}")
    for note in failure.notes:
        output.warn(f"{PROGRAM}: {note}")
    if failure.hint:
        output.warn(f"hint: {failure.hint}")
    return failure.exit_code


def _as_json(failure: Failure) -> dict[str, object]:
    return {
        "error": failure.sentence,
        "hint": failure.hint,
        "exit_code": failure.exit_code,
        "kind": failure.kind,
        "fields": failure.fields or {},
        "notes": failure.notes,
    }


def explain(error: BaseException) -> Failure:
    """The sentence, the exit code and the hint of any error."""
    kind = type(error).__name__
    notes = tuple(getattr(error, "__notes__", ()))
    if isinstance(error, InterruptedBySignal):
        return Failure(str(error), _SIGNALLED + error.signal_number, None, kind, {}, notes)
    if isinstance(error, DmsnapError):
        return Failure(str(error), int(error.exit_code), error.hint, kind, error.fields, notes)
    if isinstance(error, click.UsageError):
        return _usage_failure(error)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", int(ExitCode.INTERRUPTED), None, kind)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        return Failure(f"cannot write the output: {error.strerror}", int(ExitCode.OS), None, kind)
    return Failure(
        f"an error that dmsnap does not know: {kind}: {error}",
        int(ExitCode.FAILURE),
        "please report it, with what the same command prints with --debug",
        kind,
        {},
        notes,
    )


def _usage_failure(error: click.UsageError) -> Failure:
    where = error.ctx.command_path.rstrip() if error.ctx else PROGRAM
    message = error.format_message().rstrip(".")
    sentence = message[:1].lower() + message[1:]
    return Failure(
        sentence, int(ExitCode.USAGE), f"{where} --help says how it is used", "UsageError"
    )
