"""Points."""

from collections.abc import Iterator
from pathlib import Path

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.outcome import show_done, show_outcome
from dmsnap.cli.output import Output, Table, Text
from dmsnap.errors import WrongWordError
from dmsnap.service.points import (
    browse,
    deletion,
    keeping,
    point_copy,
    point_history,
    properties,
)
from dmsnap.service.points import point as points
from dmsnap.service.points.browse import BrowseResult
from dmsnap.service.points.copy_admission import CopyRequest
from dmsnap.service.points.point import Place, PointView
from dmsnap.service.points.point_copy import CopyResult
from dmsnap.service.points.properties import Change
from dmsnap.service.session import Session
from dmsnap.units import format_size


def create(
    output: Output,
    *,
    names: tuple[str, ...],
    keep: bool,
    expires: int | None,
    comment: str | None,
    cow_percent: int | None,
    dry_run: bool,
) -> None:
    with Session.open() as session:
        taken = points.create(
            session,
            names,
            keep=keep,
            dry_run=dry_run,
            cow_percent=cow_percent or 0,
            expires_ns=expires or None,
            comment=comment or None,
        )
    show_outcome(output, taken, describe_taken)


def describe_taken(taken: list[PointView]) -> Iterator[Text]:
    for point in taken:
        seconds = point.window_seconds or 0
        yield f"point {point.id} of {point.volume}, window {seconds * 1000:.1f} ms"


def list_points(output: Output, *, names: tuple[str, ...], as_of: int | None) -> None:
    with Session.open() as session:
        if as_of is None:
            found = points.list_points(session, names)
        else:
            found = point_history.list_as_of(session, names, as_of)
    output.show(found, describe_list)


def describe_list(found: list[PointView]) -> Iterator[Text]:
    if not found:
        yield "there are no points"
        return
    yield Table(
        ("POINT", "VOLUME", "CREATED", "KEEP", "RECOVERABLE FROM", "COMMENT"),
        [
            (
                str(point.id),
                point.volume,
                format_time(point.created_ns),
                _kept(point),
                _places(point),
                point.comment or "",
            )
            for point in found
        ],
    )


def _kept(point: PointView) -> str:
    """How long it is kept by what was said of it alone."""
    if point.keep:
        return "keep"
    return f"until {format_time(point.expires_ns)}" if point.expires_ns else ""


def _places(point: PointView) -> str:
    """Where it is, or was; and what has become of it since."""
    places = _present_places(point)
    return f"{places}; {_deletion(point)}" if point.deletion else places


def _deletion(point: PointView) -> str:
    deletion = point.deletion
    if deletion is None:
        return ""
    by = f" by {deletion.deleted_by}" if deletion.deleted_by else ""
    why = f": {deletion.deleted_reason}" if deletion.deleted_reason else ""
    return f"deleted {format_time(deletion.deleted_ns)}{by}{why}"


def _present_places(point: PointView) -> str:
    if point.places:
        places = ", ".join(_place(place) for place in point.places)
        return f"{places}; {point.invalid_reason}" if point.invalid_reason else places
    return f"nowhere: {point.invalid_reason or 'it is in no place any more'}"


def _place(place: Place) -> str:
    if place.kind == "history" and place.steps_back:
        return f"history ({place.steps_back} back)"
    return place.kind


def show(output: Output, *, point: str) -> None:
    with Session.open() as session:
        found = point_history.show(session, point)
    output.show(found, describe_point)


def describe_point(point: PointView) -> Iterator[Text]:
    yield f"point {point.id}"
    yield f"  volume   {point.volume}"
    yield f"  created  {format_time(point.created_ns)}"
    yield f"  keep     {'yes' if point.keep else 'no'}"
    if point.expires_ns is not None:
        yield f"  expires  {format_time(point.expires_ns)}"
    if point.comment is not None:
        yield f"  comment  {point.comment}"
    if point.window_seconds is not None:
        yield f"  window   {point.window_seconds * 1000:.1f} ms"
    for place in point.places:
        yield f"  on       {place.device} ({_place(place)})"
    if point.deletion:
        yield f"  {_deletion(point)}"
    if point.invalid_reason:
        yield f"  invalid  {point.invalid_reason}"


def keep(output: Output, *, point: str, off: bool, dry_run: bool) -> None:
    with Session.open() as session:
        result = keeping.keep(session, point, keep=not off, dry_run=dry_run)
    show_outcome(output, result, describe_kept)


def describe_kept(point: PointView) -> Iterator[Text]:
    if point.keep:
        yield f"point {point.id} of {point.volume} is kept until it is deleted"
    else:
        yield f"point {point.id} of {point.volume} goes when it has to, as others do"


def change(
    output: Output,
    *,
    point: str,
    keep: bool | None,
    expires: int | None,
    comment: str | None,
    dry_run: bool,
) -> None:
    wanted = Change(keep, expires, comment)
    if wanted == Change():
        raise WrongWordError(
            "nothing is to be changed", hint="name --keep, --no-keep, --expires or --comment"
        )
    with Session.open() as session:
        result = properties.change(session, point, wanted, dry_run=dry_run)
    show_outcome(output, result, describe_point)


def delete(output: Output, *, point: str, dry_run: bool) -> None:
    with Session.open() as session, output.progress("merging undo stores") as progress:
        plan = deletion.delete(session, point, dry_run=dry_run, progress=progress)
    done = {"operation": "point delete", "point": point}
    show_done(output, plan, done, f"point {point} is deleted")


def mount(output: Output, *, point: str, directory: Path | None, dry_run: bool) -> None:
    at = directory.absolute() if directory else None
    with Session.open() as session:
        result = browse.mount_point(session, point, at, dry_run=dry_run)
    show_outcome(output, result, describe_mounted)


def describe_mounted(result: BrowseResult) -> Iterator[Text]:
    yield f"point {result.point} of {result.volume} is mounted on {result.mount_point}"


def umount(output: Output, *, point: str, dry_run: bool) -> None:
    with Session.open() as session:
        plan = browse.unmount_point(session, point, dry_run=dry_run)
    done = {"operation": "point umount", "point": point}
    show_done(output, plan, done, f"point {point} is unmounted")


def copy(
    output: Output, *, point: str, onto: Path, overwrite: bool, bandwidth: int, dry_run: bool
) -> None:
    request = CopyRequest(onto, overwrite, bandwidth)
    with Session.open() as session, output.progress(f"copying to {onto}") as progress:
        result = point_copy.copy_point(session, point, request, dry_run=dry_run, progress=progress)
    show_outcome(output, result, describe_copied)


def describe_copied(result: CopyResult) -> Iterator[Text]:
    yield (
        f"{result.device} is a copy of {result.snapshot} of {result.origin}: "
        f"{format_size(result.bytes_written)} written, {format_size(result.bytes_zero)} zeroes, "
        f"all of it compared"
    )
    if result.fs_uuid:
        kind = f"{result.fs_type} with the UUID {result.fs_uuid}"
        yield f"it is the same {kind} as {result.origin}"
