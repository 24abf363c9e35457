"""What keeps a command from a volume, of all that is cleared before it, and what does not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from catalogue_samples import a_volume, an_area

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import AreaRole, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import BusyError, DmsnapError, NotFoundError, OperatingSystemError
from dmsnap.host import orphans
from dmsnap.recovery import chain
from dmsnap.service import reaper
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.exports import exported
from dmsnap.service.health import stranded
from dmsnap.service.hydrations import crossing, hydration
from dmsnap.service.luns import luns
from dmsnap.service.session import Session
from dmsnap.service.swaps import handover, owed_record
from dmsnap.service.volumes import spare
from dmsnap.snapshot import stack

TIDYING: list[tuple[ModuleType, str]] = [
    (reaper, "remove_temporary_points"),
    (reaper, "remove_stray_snapshots"),
    (reaper, "remove_stray_overlays"),
    (exported, "hide_stray_points"),
    (exported, "remove_stray_backstores"),
    (spare, "remove_unfinished"),
    (spare, "release_retired"),
    (hydration, "tidy"),
]
NEEDED: list[tuple[ModuleType, str]] = [
    (reaper, "note_dropped_layers"),
    (reaper, "note_lost_tracking"),
    (reaper, "note_invalid_points"),
    (handover, "is_unfinished"),
]


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_what: object) -> None:
        raise error

    return fail


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(tmp_path / "catalogue.db") as found:
        yield found


@pytest.fixture
def session(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Nothing is left of anything, and no device is looked at."""
    for module, name in TIDYING + NEEDED:
        monkeypatch.setattr(module, name, lambda *_: False)
    monkeypatch.setattr(exported, "reap", lambda *_: None)
    return Session(Configuration(), catalogue)


@pytest.fixture
def volume(catalogue: Catalogue) -> Volume:
    found = a_volume()
    catalogue.add_volume(found)
    return found


@pytest.mark.parametrize("error", [BusyError, NotFoundError, OperatingSystemError])
def test_what_cannot_be_tidied_keeps_no_command_out(
    session: Session,
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[DmsnapError],
) -> None:
    """Not even a swap: each is tried, whatever became of the one before, and told."""
    for module, name in TIDYING:
        monkeypatch.setattr(module, name, failing(error(f"{name} fails")))
    reaper.clear(session, volume, [])
    assert [name for _, name in TIDYING if f"{name} fails" not in caplog.text] == []


@pytest.mark.parametrize(("module", "name"), NEEDED)
def test_what_a_command_relies_on_ends_it(
    session: Session,
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    name: str,
) -> None:
    monkeypatch.setattr(module, name, failing(OperatingSystemError(f"{name} fails")))
    with pytest.raises(OperatingSystemError, match=name):
        reaper.clear(session, volume, [])


def test_what_was_left_suspended_goes_on_before_all_else(
    session: Session, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login may take minutes, and a process that waits for the front keeps who looks at it."""
    done: list[str] = []

    def noting(what: str, answer: object = None) -> Callable[..., Any]:
        def note(*_of: object, **_in: object) -> object:
            done.append(what)
            return answer

        return note

    monkeypatch.setattr(crossing, "settle", lambda _session, found: found)
    monkeypatch.setattr(owed_record, "settle", lambda _session, found: found)
    monkeypatch.setattr(reaper, "clear_suspended", noting("resume"))
    monkeypatch.setattr(stranded, "suspended", lambda _: set())
    monkeypatch.setattr(luns, "release_strays", noting("targets"))
    monkeypatch.setattr(luns, "attach_all", noting("targets"))
    monkeypatch.setattr(orphans, "wait_for_lvm", noting("processes"))
    monkeypatch.setattr(reaper, "clear", noting("clear"))
    jobs.begin(session.catalogue, "sync", [volume.id], arguments={}, pid=1, steps=["window"])
    reaper.reap(session, volume, concluding=False)
    assert done == ["resume", "targets", "targets", "processes", "clear"]


def test_a_boot_asks_no_recovery_volume_about_temporary_points(
    session: Session, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait: its disk may be in error handling, and so do the mounts."""
    monkeypatch.setattr(reaper, "remove_temporary_points", failing(AssertionError("it is asked")))
    reaper.clear(session, volume, [], at_boot=True)
    with pytest.raises(AssertionError):
        reaper.clear(session, volume, [])


def test_no_device_of_a_trial_that_was_ended_is_left(
    session: Session, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that either over which a merge was begun anew: it holds the overlay's store."""
    removed: list[str] = []
    monkeypatch.setattr(stack, "remove", lambda device: removed.append(device.name))
    monkeypatch.setattr(chain, "existing", lambda *_: [])
    monkeypatch.setattr(Session, "release_area", lambda _session, _volume, area: area.path)
    overlay = replace(an_area(volume, AreaRole.OVERLAY), generation=volume.generation + 1)
    session.catalogue.add_area(overlay)
    reaper.remove_stray_trial(session, volume)
    origin = f"dmsnap-{volume.name}-origin-{volume.generation + 1}"
    assert [name for name in removed if "origin" in name] == [origin, f"{origin}-store"]
