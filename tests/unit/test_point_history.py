"""Points of the past, as the command line shows them."""

from dataclasses import replace

import pytest
from catalogue_samples import a_point, a_volume

from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import NotFoundError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.points import point_history
from dmsnap.service.points.point import Place
from dmsnap.service.session import Session


@pytest.fixture
def session(catalogue: Catalogue) -> Session:
    return Session(Configuration(), catalogue)


def test_steps_back_are_counted_as_they_were(session: Session) -> None:
    volume = replace(a_volume(), recovery="/dev/gone-since")
    session.catalogue.add_volume(volume)
    points = [a_point(volume, created_ns) for created_ns in (1, 2, 3)]
    session.catalogue.add_points(points)
    session.catalogue.record_replica(volume, [point.id for point in reversed(points)])
    then_ns = now_ns()
    for point in points:
        session.catalogue.delete_point(point.id, "no room")
    listed = point_history.list_as_of(session, [], then_ns)
    assert [view.id for view in listed] == [point.id for point in points]
    assert [view.places for view in listed] == [
        (Place("history", "/dev/gone-since", 2),),
        (Place("history", "/dev/gone-since", 1),),
        (Place("replica", "/dev/gone-since", 0),),
    ]
    assert point_history.list_as_of(session, ["srv"], now_ns()) == []


def test_a_deleted_point_is_found_by_its_first_digits(session: Session) -> None:
    volume = replace(a_volume(), recovery=None)
    session.catalogue.add_volume(volume)
    point = a_point(volume)
    session.catalogue.add_point(point)
    session.catalogue.delete_point(point.id, "point delete")
    session.catalogue.remove_volume(volume.id)
    for text in (str(point.id), point.id.hex[:13], point.id.hex[:9].upper()):
        shown = point_history.show(session, text)
        assert (shown.id, shown.volume) == (point.id, "srv")
        assert shown.deletion is not None
        assert shown.deletion.deleted_reason == "point delete"
    for text in (point.id.hex[:3], "0000-none", "%", ""):
        with pytest.raises(NotFoundError):
            point_history.show(session, text)
