"""Values of the declared tables: as texts in TOML, each with the sentence that refuses it."""

from typing import Annotated

from annotated_types import Ge, Le, MinLen
from pydantic import AfterValidator, BeforeValidator, PlainValidator

from dmsnap._native.io_priority import LEVELS
from dmsnap.errors import WrongWordError
from dmsnap.host import lun
from dmsnap.host.lun import LunName
from dmsnap.policy.copying import Hours
from dmsnap.service.volumes.admission import NAME
from dmsnap.units import MIB, exact_size, format_duration, parse_duration, parse_size

MAX_BYTES = 2**63 - 1
MAX_SECONDS = 200 * 366 * 86400


class Duration(int):
    """Seconds; as a text what was written, or as much."""

    def __str__(self) -> str:
        return format_duration(self)


class Size(int):
    """Bytes; a rate: bytes a second."""

    def __str__(self) -> str:
        return exact_size(self)


def _duration(value: object) -> Duration:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is not a duration; write it as "90s", "6h", "7d"')
    seconds = parse_duration(value)
    if seconds > MAX_SECONDS:
        raise ValueError(f"{value!r} is longer than {format_duration(MAX_SECONDS)}")
    return Duration(seconds)


def _deadline(value: object) -> Duration:
    seconds = _duration(value)
    if not 1 <= seconds <= 86400:
        raise ValueError(f"{value!r} is no deadline: from 1s to 1d")
    return seconds


def _size(value: object) -> Size:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is not a size; write it as "64KiB", "50MiB"')
    return Size(parse_size(value))


def _rate(value: object) -> Size:
    size_bytes = _size(value)
    if not 0 < size_bytes <= MAX_BYTES:
        raise ValueError(f"{value!r} a second is no limit: from 1 to {MAX_BYTES} bytes")
    return size_bytes


def _sample(value: object) -> Size:
    size_bytes = _size(value)
    if not MIB <= size_bytes <= MAX_BYTES:
        raise ValueError(f"{value!r} is no sample: at least 1MiB")
    return size_bytes


def name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is no name: up to 64 letters, digits, dots, underscores, pluses and "
            "hyphens, the first a letter or digit"
        )
    return value


def _absolute_path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"{value!r} does not begin with a slash")
    return value


def _device(value: str) -> str:
    """A path, or the name of a LUN, whose own sentence says what is wrong with it."""
    if not lun.is_name(value):
        return _absolute_path(_one_line(value))
    try:
        LunName.parse(value)
    except WrongWordError as error:
        raise ValueError(str(error)) from None
    return value


def _one_line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError(f"{value!r} is not a text of one line")
    return value


def _hours(value: str) -> str:
    Hours.parse(value)
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _arguments(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(
            'must be a list of arguments, as ["/usr/local/sbin/quiesce", "all"]: no shell reads it'
        )
    return value


def _command(value: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in word for word in value):
        raise ValueError("no argument can hold a NUL")
    _absolute_path(value[0])
    return value


Name = Annotated[str, AfterValidator(name)]
Line = Annotated[str, AfterValidator(_one_line)]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_listed)]
DeviceName = Annotated[str, AfterValidator(_device)]
AbsolutePath = Annotated[str, AfterValidator(_absolute_path)]
Count = Annotated[int, Ge(0), Le(100_000)]
IoLevel = Annotated[int, Ge(0), Le(LEVELS - 1)]
DurationText = Annotated[Duration, PlainValidator(_duration)]
DeadlineText = Annotated[Duration, PlainValidator(_deadline)]
RateText = Annotated[Size, PlainValidator(_rate)]
SampleText = Annotated[Size, PlainValidator(_sample)]
HoursText = Annotated[str, AfterValidator(_hours)]
Command = Annotated[
    tuple[str, ...], BeforeValidator(_arguments), MinLen(1), AfterValidator(_command)
]
