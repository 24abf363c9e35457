"""A recovery volume that hangs holds nobody who only reads its label by the way."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from catalogue_samples import a_volume
from test_history import a_label

from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import DeadlineError, NotFoundError
from dmsnap.host import reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import answering, replica
from dmsnap.service.points import point
from dmsnap.service.records import backup

HANGING, OTHER, GONE = (
    replace(a_volume(name), recovery=f"/dev/{name}", state=VolumeState.PROTECTED)
    for name in ("srv", "home", "gone")
)
WITHOUT = replace(a_volume("bare"), recovery=None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """The devices that were asked, call by call: of these one hangs, and one is not there."""
    found: list[list[Path]] = []

    def probe(path: Path) -> SimpleNamespace:
        if path == Path("/dev/gone"):
            raise NotFoundError("it is gone")
        return SimpleNamespace(path=path, devno=hash(path))

    def silent(devices: Sequence[Path], _seconds: float) -> list[Path]:
        found.append(list(devices))
        return [each for each in devices if each == Path("/dev/srv")]

    def label_of(volume: Volume) -> object:
        assert volume is not HANGING, "it would hang here"
        if volume is GONE:
            raise NotFoundError("it is gone")
        return a_label()

    monkeypatch.setattr(BlockDevice, "probe", probe)
    monkeypatch.setattr(reach, "silent", silent)
    monkeypatch.setattr(replica, "label_of", label_of)
    return found


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(tmp_path / "catalogue.db") as opened:
        opened.add_volume(HANGING)
        opened.add_volume(OTHER)
        yield opened


def test_all_are_asked_at_once(asked: list[list[Path]]) -> None:
    assert answering.silent([HANGING, OTHER, GONE, WITHOUT]) == {HANGING.id}
    assert asked == [[Path("/dev/srv"), Path("/dev/home")]]
    answering.require(OTHER)
    answering.require(GONE)  # who reads it says so
    with pytest.raises(DeadlineError, match="/dev/srv does not answer"):
        answering.require(HANGING)


def test_what_was_just_heard_is_not_asked(
    asked: list[list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    reach.note_heard(hash(Path("/dev/home")))
    assert answering.silent([HANGING, OTHER]) == {HANGING.id}
    assert asked == [[Path("/dev/srv")]]
    now += reach.HEARD_SECONDS
    assert answering.silent([HANGING, OTHER]) == {HANGING.id}
    assert asked[1:] == [[Path("/dev/srv"), Path("/dev/home")]]


def test_labels_of_others_are_read(
    asked: list[list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    labels = point.labels_of([HANGING, OTHER, GONE, WITHOUT])
    assert [label is not None for label in labels] == [False, True, False, False]
    assert "/dev/srv does not answer" in caplog.text


def test_a_backup_is_not_made_there_and_the_command_ends(
    asked: list[list[Path]],
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    written: list[str] = []
    monkeypatch.setattr(backup, "write", lambda _, volume: written.append(volume.name))
    with backup.kept(catalogue, ["srv", "home"]):
        catalogue.update_volume(replace(HANGING, generation=2))
    assert written == ["home"]
    assert "the catalogue of srv is not backed up: the recovery volume /dev/srv" in caplog.text
