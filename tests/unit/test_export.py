"""What an export is called and whom it lets in, before anything is published."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue import jobs as recorded_jobs
from dmsnap.catalogue.export import Export, ExportKind, Source
from dmsnap.catalogue.model import JobState, StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import WrongWordError
from dmsnap.host import kernel, systemd
from dmsnap.host.dm import device as dm
from dmsnap.host.lio import state, target
from dmsnap.service import forecast, jobs
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.exports import export, export_source, export_unit, exported
from dmsnap.service.exports.export import ExportRequest
from dmsnap.service.session import Session
from dmsnap.snapshot import stack


def request(address: str = "192.0.2.1", *initiators: str) -> ExportRequest:
    return ExportRequest("srv", address, 3260, initiators, False)


@pytest.mark.parametrize(
    "name",
    [
        "iqn.1993-08.org.debian:01:5f1e2d3c4b5a",
        "iqn.2026-12.org.example.a-b",
        "iqn.2005-03.org.open-iscsi:host.lan:1",
    ],
)
def test_names_of_initiators(name: str) -> None:
    export.check_words(request("::1", name))


@pytest.mark.parametrize(
    "name",
    [
        "", "host", "iqn.2026-13.org.example:a", "iqn.2026-01.org.Example:a", "iqn.26-01.org.e:a",
        "iqn.2026-01.org.example:a/../b", "iqn.2026-01.org.example:a b", "eui.0123456789abcdef",
    ],
)  # fmt: skip
def test_what_is_no_name_of_an_initiator(name: str) -> None:
    with pytest.raises(WrongWordError, match="no initiator's name"):
        export.check_words(request("192.0.2.1", "iqn.2026-01.org.example:good", name))


def test_a_host_name_is_no_address() -> None:
    with pytest.raises(WrongWordError, match="no IP address"):
        export.check_words(request("localhost", "iqn.2026-01.org.example:a"))


def test_the_serial_number_is_the_same_for_the_same_thing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = [uuid4(), uuid4()]
    monkeypatch.setattr(kernel, "machine_id", lambda: hosts[0])
    volume_id, point_id = uuid4(), uuid4()
    front = Source(ExportKind.FRONT, volume_id, None, None, 1)
    point = Source(ExportKind.POINT, volume_id, point_id, None, 1)
    device = Source(ExportKind.DEVICE, None, None, "/dev/disk/by-id/a", 1)
    other = Source(ExportKind.DEVICE, None, None, "/dev/disk/by-id/b", 1)
    serials = [export.serial_of(source) for source in (front, point, device, other)]
    assert serials[:2] == [volume_id, point_id]
    assert len(set(serials)) == len(serials)
    assert export.serial_of(device) == serials[2]
    # A disk of the same name on another host is another disk, and no second path to this one.
    monkeypatch.setattr(kernel, "machine_id", lambda: hosts[1])
    assert export.serial_of(device) not in serials
    monkeypatch.setattr(kernel, "machine_id", lambda: None)
    assert export.serial_of(device) != export.serial_of(device)


def test_devices_that_show_a_point_are_told_from_others() -> None:
    """Of the dm UUIDs of a volume, by the mark of the point."""
    prefix = f"DMSNAP-{uuid4()}"
    shows = {
        f"{prefix}-export-0123456789ab": "0123456789ab",
        f"{prefix}-history-export-0123456789ab-0": "0123456789ab",
        f"{prefix}-store-export-0123456789ab-63": "0123456789ab",
        f"{prefix}-point-0123456789ab": None,
        f"{prefix}-history-browse-0123456789ab-0": None,
        f"{prefix}-front": None,
    }
    for uuid, mark in shows.items():
        match = re.search(exported.SHOWS_POINT, uuid)
        assert (match[1] if match else None) == mark


def test_a_job_on_a_device_is_known_to_live_by_its_lock() -> None:
    device = Source(ExportKind.DEVICE, None, None, "/dev/disk/by-id/a", 1)
    front = Source(ExportKind.FRONT, uuid4(), None, None, 1)
    assert export_source.volume_ids(device, front, front) == [front.volume_id]
    assert export_source.of_no_volume(front) == {}
    assert export_source.of_no_volume(device)["name"] in export_source.lock_names(
        SimpleNamespace(),  # type: ignore[arg-type]
        device,
    )


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of /etc/systemd/system."""
    monkeypatch.setattr(systemd, "UNITS", tmp_path / "system")
    monkeypatch.setattr(systemd, "reload", lambda: None)
    return tmp_path


def answers(monkeypatch: pytest.MonkeyPatch, *answers: bool) -> Any:
    """A session whose catalogue has an export or none, from one question to the next."""
    rows = iter([[SimpleNamespace(complete=True)] if answer else [] for answer in answers])
    monkeypatch.setattr(recorded, "exports", lambda _: next(rows))
    return SimpleNamespace(catalogue=None)


def test_the_unit_is_wanted_while_there_are_exports(
    units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = export_unit.wish_path()
    export_unit.settle(answers(monkeypatch, False))
    assert not list(units.iterdir())
    export_unit.settle(answers(monkeypatch, True, True))
    assert wish.read_text() == export_unit.TEXT
    export_unit.settle(answers(monkeypatch, False, False))
    assert not wish.parent.exists()


def test_an_export_that_is_recorded_meanwhile_keeps_its_unit(
    units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the lock may be old: another command exported something since."""
    export_unit.settle(answers(monkeypatch, True, True))
    export_unit.settle(answers(monkeypatch, False, True))
    assert export_unit.wish_path().exists()


def test_a_volume_can_be_worked_on_where_etc_cannot_be_written(
    units: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.UNITS.write_text("no directory")
    exported.reap(answers(monkeypatch, True, True), [])
    assert "is not put right" in caplog.text


def test_a_backstore_that_no_lun_shows_lets_the_front_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LUN that was swapped from the front to a device, killed before the last step."""
    names = [f"{state.BACKSTORE_PREFIX}{name}" for name in ("recorded", "mapped", "stray")]
    found = [state.Backstore(name, 7, "", False) for name in (*names, "foreign")]
    removed: list[str] = []
    monkeypatch.setattr(target, "remove_backstore", removed.append)
    monkeypatch.setattr(state, "backstores_on", lambda devno: found if devno == 7 else [])
    monkeypatch.setattr(state, "targets", lambda: ["iqn.a"])
    monkeypatch.setattr(state, "luns", lambda _: [0])
    monkeypatch.setattr(state, "backstore_of_lun", lambda *_: names[1])
    monkeypatch.setattr(exported, "of_volume", lambda *_: [SimpleNamespace(backstore=names[0])])
    monkeypatch.setattr(stack, "front", lambda volume: SimpleNamespace(uuid=volume))
    monkeypatch.setattr(dm, "info", lambda uuid: {"there": SimpleNamespace(devno=7)}.get(uuid))
    for volume in ("gone", "there"):
        exported.remove_stray_backstores(SimpleNamespace(), volume)  # type: ignore[arg-type]
    assert removed == [names[2]]


STEPS = ("record", "create-backstore", "create-target", "map-lun", "enable", "confirm")


@pytest.mark.parametrize(
    ("complete", "at", "outcome"),
    [
        (False, "create-target", JobState.UNDONE),
        (True, "confirm", JobState.DONE),
    ],
)
def test_an_export_of_a_device_that_was_cut_off_is_settled_with_its_job(
    units: Path,
    monkeypatch: pytest.MonkeyPatch,
    complete: bool,
    at: str,
    outcome: JobState,
) -> None:
    """It is of no volume that anybody would hold, and clear."""
    device = Source(ExportKind.DEVICE, None, None, "/dev/disk/by-id/a", 1)
    removed: list[str] = []
    monkeypatch.setattr(target, "remove_target", removed.append)
    monkeypatch.setattr(state, "backstores", list)
    monkeypatch.setattr(state, "has_target", lambda _: False)
    with Catalogue.open(units / "catalogue.db") as catalogue:
        session = Session(Configuration(run_directory=units / "run"), catalogue)
        export = Export(
            id=uuid4(), source=device, target="iqn.a", lun=0, address="::1", port=3260,
            initiators=(), read_only=False, generation=1, complete=complete, created_ns=1,
        )  # fmt: skip
        recorded.record(catalogue, export)
        arguments = export_source.of_no_volume(device)
        job_id = recorded_jobs.begin(
            catalogue, "export", (), arguments=arguments, pid=1, steps=STEPS
        )
        for position in range(STEPS.index(at) + 1):
            recorded_jobs.record_step(catalogue, job_id, position, StepState.DONE, 0.1)
        (step,) = forecast.resuming_all(session).steps
        assert step.startswith("clear what is left of" if complete else "take back")
        (resumed,) = jobs.resume_all(session)
        assert resumed.job.state == outcome
        assert recorded.exports(catalogue) == ([export] if complete else [])
        assert removed == ([] if complete else ["iqn.a"])
        assert export_unit.wish_path().exists() is complete
