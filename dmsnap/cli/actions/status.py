"""What can be recovered, and what is wrong: of all volumes in brief, of those named in full."""

from collections.abc import Iterator

from dmsnap.cli.output import Output, Table, Text
from dmsnap.errors import ExitCode
from dmsnap.service.health import status as state
from dmsnap.service.health.status import VolumeStatus
from dmsnap.service.session import Session
from dmsnap.units import format_age, format_measured, format_size

# Longer names are cut in the overview, so that it fits a screen: below it they are whole.
_NAME_COLUMNS = 32
# Enough of an id to name a point by.
_DIGITS = 8


def status(output: Output, *, names: tuple[str, ...]) -> ExitCode:
    with Session.open() as session:
        found = state.status(session, names)
    output.show(found, describe_status if names else describe_overview)
    wrong = any(volume.problems for volume in found)
    return ExitCode.UNHEALTHY if wrong else ExitCode.OK


def describe_overview(found: list[VolumeStatus]) -> Iterator[Text]:
    """A line for each volume; below it what there is to say of any."""
    if not found:
        yield "no volume is protected"
        return
    yield Table(
        ("VOLUME", "STATE", "NEWEST", "AGE>", "REPLICA>", "LIVE/HISTORY>", "LAST SWAP>"),
        [_overview_row(volume) for volume in found],
    )
    for volume in found:
        yield from _notes(volume)


def _overview_row(volume: VolumeStatus) -> list[str]:
    replica, newest = volume.replica, volume.newest
    seconds = volume.recovery_seconds
    return [
        _cut(volume.volume),
        str(volume.state),
        newest.point[:_DIGITS] if newest else "-",
        format_age(newest.age_seconds) if newest else "-",
        _replica_age(volume),
        f"{len(volume.live_points)}/{replica.history_points if replica else '-'}",
        "-" if seconds is None else format_measured(seconds),
    ]


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_COLUMNS else f"{name[: _NAME_COLUMNS - 3]}..."


def _replica_age(volume: VolumeStatus) -> str:
    replica = volume.replica
    return format_age(replica.age_seconds) if replica and replica.age_seconds is not None else "-"


def describe_status(found: list[VolumeStatus]) -> Iterator[Text]:
    """The same with sizes and mount points; the age is that of what the recovery volume holds."""
    yield Table(
        ("VOLUME", "STATE", "SIZE>", "MOUNTED ON", "RECOVERY POINT", "AGE>", "EARLIER>", "LIVE>"),
        [_status_row(volume) for volume in found],
    )
    for volume in found:
        yield from _notes(volume)


def _notes(volume: VolumeStatus) -> Iterator[str]:
    """What works on a volume, what is wrong with it, and what else is to be known."""
    if volume.running:
        yield f"{volume.volume}: {volume.running} works on it"
    if volume.overlay:
        used, total = volume.overlay.used_bytes, volume.overlay.total_bytes
        room = f"{format_size(used)} of {format_size(total)}"
        yield f"{volume.volume}: the trial has written {room} to its overlay"
    if volume.live:
        yield f"{volume.volume}: live, a part of {volume.device} until the next boot"
    for problem in volume.problems:
        yield f"{volume.volume}: {problem}"
    if volume.hydration and not volume.running:
        copied = f"{format_size(volume.hydration.bytes_copied)} copied"
        yield (
            f"{volume.volume}: its move to {volume.hydration.device} was interrupted, {copied}:"
            f" dmsnap hydrate {volume.volume} goes on"
        )
    if volume.spare_reason:
        yield f"{volume.volume}: the next swap formats era metadata: {volume.spare_reason}"


def _status_row(volume: VolumeStatus) -> list[str]:
    replica = volume.replica
    point = (replica.point or replica.state)[:_DIGITS] if replica else "-"
    return [
        volume.volume,
        str(volume.state),
        format_size(volume.size_bytes),
        ", ".join(volume.mount_points) or "-",
        point,
        _replica_age(volume),
        str(replica.history_points) if replica else "-",
        str(len(volume.live_points)),
    ]
