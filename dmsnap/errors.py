"""Every error dmsnap raises: a sentence, its fields, an exit code and, where there is one, a hint.

A class owns its sentence and carries the data it was made of, so that ``--json`` can give both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from dmsnap.units import format_size


class ExitCode(IntEnum):
    """What the command line ends with; listed in docs/MANUAL.md."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_PERMITTED = 3
    NOT_FOUND = 4
    TOO_SMALL = 5
    BUSY = 6
    ALREADY_PROTECTED = 7
    FOREIGN_DEVICE = 8
    READ_ONLY = 9
    BLOCK_SIZE = 10
    MISSING_TARGET = 11
    STORE_ON_VOLUME = 12
    CORRUPT = 13
    POINT_INVALID = 14
    LOCKED = 15
    NO_SPACE = 16
    STACK_CHANGED = 17
    AUDIT_FAILED = 18
    PROGRAM_FAILED = 19
    OS = 20
    CONFIGURATION = 21
    WRONG_STATE = 22
    DEADLINE = 23
    UNHEALTHY = 24
    UNREACHABLE = 25
    INTERRUPTED = 130
    TERMINATED = 143


class DmsnapError(Exception):
    """Base of all: ``str(error)`` is the sentence."""

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, sentence: str, *, hint: str | None = None, **fields: object) -> None:
        super().__init__(sentence)
        self.hint = hint
        self.fields = fields


@contextmanager
def of_volume(name: str) -> Iterator[None]:
    """Errors of the block say whose they are, in the field ``volume``, unless they do already."""
    try:
        yield
    except DmsnapError as error:
        error.fields.setdefault("volume", name)
        raise


class WrongWordError(DmsnapError):
    """A word of the command line that cannot be what it is meant to be."""

    exit_code = ExitCode.USAGE


class NotPermittedError(DmsnapError):
    exit_code = ExitCode.NOT_PERMITTED


class NotFoundError(DmsnapError):
    """A volume, point or device that was named does not exist, or the name fits several."""

    exit_code = ExitCode.NOT_FOUND


class TooSmallError(DmsnapError):
    exit_code = ExitCode.TOO_SMALL

    def __init__(self, device: str, size_bytes: int, needed_bytes: int, purpose: str) -> None:
        missing_bytes = needed_bytes - size_bytes
        super().__init__(
            f"{device} has {format_size(size_bytes)}, {purpose} needs "
            f"{format_size(needed_bytes)}: {missing_bytes} bytes are missing",
            device=device,
            size_bytes=size_bytes,
            needed_bytes=needed_bytes,
            missing_bytes=missing_bytes,
        )


class BusyError(DmsnapError):
    """A device or mount is used by somebody else, who is named in the sentence."""

    exit_code = ExitCode.BUSY


class MountPointTakenError(BusyError):
    """Something else is mounted where a volume was: it is mounted there when that is gone."""

    def __init__(self, mount_point: str, source: str, device: str) -> None:
        super().__init__(
            f"{source} is mounted on {mount_point} by now, where {device} was: it is not mounted "
            f"over that",
            hint=f"umount {mount_point}; after a job that was cut off, dmsnap job resume --all "
            f"mounts {device} then",
            mount_point=mount_point,
            source=source,
            device=device,
        )


class AlreadyProtectedError(DmsnapError):
    exit_code = ExitCode.ALREADY_PROTECTED


class ForeignDeviceError(DmsnapError):
    """A device carries data or a label that is not this volume's."""

    exit_code = ExitCode.FOREIGN_DEVICE


class ReadOnlyError(DmsnapError):
    exit_code = ExitCode.READ_ONLY

    def __init__(self, device: str, purpose: str) -> None:
        super().__init__(f"{device} is read-only, {purpose} must write to it", device=device)


class BlockSizeError(DmsnapError):
    """Logical blocks that do not fit: the device's, the file system's or an option's."""

    exit_code = ExitCode.BLOCK_SIZE


class MissingTargetError(DmsnapError):
    exit_code = ExitCode.MISSING_TARGET

    def __init__(self, target: str) -> None:
        super().__init__(
            f"the kernel has no dm target {target!r}",
            hint=f"load it with: modprobe dm-{target.removesuffix('-origin')}",
            target=target,
        )


class StoreOnVolumeError(DmsnapError):
    exit_code = ExitCode.STORE_ON_VOLUME

    def __init__(self, store: str, device: str) -> None:
        super().__init__(
            f"the store {store} lies on {device}, the volume it would serve",
            hint="choose a directory on another disk or a volume group with --store",
            store=store,
            device=device,
        )


class CorruptError(DmsnapError):
    """Bytes on a disk are not what their format allows."""

    exit_code = ExitCode.CORRUPT


class NotThisFormatError(CorruptError):
    """There is no such structure at all: the magic number is another."""


class PointInvalidError(DmsnapError):
    exit_code = ExitCode.POINT_INVALID


class LockedError(DmsnapError):
    exit_code = ExitCode.LOCKED


class NoSpaceError(DmsnapError):
    exit_code = ExitCode.NO_SPACE


class StackChangedError(DmsnapError):
    """The live tables are not what the catalogue says they should be."""

    exit_code = ExitCode.STACK_CHANGED


class AuditError(DmsnapError):
    exit_code = ExitCode.AUDIT_FAILED


class ProgramError(DmsnapError):
    """A program that dmsnap ran failed, or wrote what was not expected."""

    exit_code = ExitCode.PROGRAM_FAILED


class OperatingSystemError(DmsnapError):
    """A system call failed; ``errnum`` is among the fields where it is known."""

    exit_code = ExitCode.OS


class ConfigurationError(DmsnapError):
    exit_code = ExitCode.CONFIGURATION


class WrongStateError(DmsnapError):
    """The operation does not apply to the volume as it is now."""

    exit_code = ExitCode.WRONG_STATE


class UnreachableError(DmsnapError):
    """No route, link or listener, or no answer: a network stands between us and a device."""

    exit_code = ExitCode.UNREACHABLE


class DeadlineError(DmsnapError):
    exit_code = ExitCode.DEADLINE


class InterruptedBySignal(BaseException):
    """SIGINT or SIGTERM arrived; unless the sentence says otherwise, all is undone on the way.

    No :class:`DmsnapError`, as KeyboardInterrupt is no Exception: who passes over what fails must
    not pass over this.
    """

    def __init__(
        self, signal_number: int, sentence: str = "interrupted; what was begun has been undone"
    ) -> None:
        super().__init__(sentence)
        self.signal_number = signal_number
