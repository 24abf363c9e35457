"""Points of the past: what there was at some moment, and what became of it."""

from collections.abc import Iterator, Sequence
from string import hexdigits

from dmsnap.catalogue import past
from dmsnap.catalogue.model import PastPoint, PlaceKind, Volume
from dmsnap.errors import NotFoundError
from dmsnap.service.points.point import MIN_PREFIX, Place, PointView, find
from dmsnap.service.session import Session


def list_as_of(session: Session, names: Sequence[str], time_ns: int) -> list[PointView]:
    """What there was at a moment, as it was recorded, oldest first. No device is looked at."""
    views: list[PointView] = []
    for volume, points in _found(session, names, time_ns):
        views += _as_they_were(volume, points)
    return sorted(views, key=lambda item: item.created_ns)


def _found(
    session: Session, names: Sequence[str], time_ns: int
) -> Iterator[tuple[Volume, list[PastPoint]]]:
    """By volume: those that are named, or all, which are asked for at once."""
    if names:
        for name in names:
            volume = session.catalogue.volume(name)
            yield volume, past.as_of(session.catalogue, time_ns, volume.id)
    else:
        everything = past.as_of(session.catalogue, time_ns)
        for volume in session.catalogue.volumes():
            yield volume, [one for one in everything if one.point.volume_id == volume.id]


def show(session: Session, text: str) -> PointView:
    """The point whose id is ``text`` or begins with it; one that was deleted where none is left."""
    try:
        return find(session, text)
    except NotFoundError:
        wanted = text.lower().replace("-", "")
        if len(wanted) < MIN_PREFIX or not set(wanted) <= set(hexdigits):
            raise
        gone = past.deleted(session.catalogue, wanted)
        if len(gone) != 1:
            raise
    return _past_view(session.catalogue.name_of(gone[0].point.volume_id), gone[0])


def _as_they_were(volume: Volume, points: Sequence[PastPoint]) -> Iterator[PointView]:
    """The points of one moment, oldest first: so many steps back as there are newer ones."""
    steps_back = sum(one.is_at(PlaceKind.HISTORY) for one in points)
    for one in points:
        yield _past_view(volume.name, one, steps_back)
        steps_back -= one.is_at(PlaceKind.HISTORY)


def _past_view(volume: str, one: PastPoint, steps_back: int = 0) -> PointView:
    return PointView(
        id=one.point.id,
        volume=volume,
        created_ns=one.point.created_ns,
        keep=one.point.keep,
        window_seconds=one.point.window_seconds,
        places=tuple(
            Place(each.kind, each.device, steps_back if each.kind is PlaceKind.HISTORY else 0)
            for each in one.places
        ),
        invalid_reason=one.point.invalid_reason,
        deletion=one.deletion,
        expires_ns=one.point.expires_ns,
        comment=one.point.comment,
    )
