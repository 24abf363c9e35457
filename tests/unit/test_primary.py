"""Whether the primary answers, where it is a LUN."""

from dataclasses import replace
from pathlib import Path

import pytest
from catalogue_samples import a_volume

from dmsnap.errors import UnreachableError
from dmsnap.host import lun, reach
from dmsnap.service.swaps import primary

VOLUME = replace(a_volume(), backing="iscsi://192.0.2.7:3260/iqn.2026-01.org.example:a/1#naa.6001")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is read of devices; nothing is mounted."""
    found: list[Path] = []

    def reads(path: Path, _seconds: float, _longest: float) -> bool:
        found.append(path)
        return False

    monkeypatch.setattr(reach, "reads", reads)
    return found


def test_its_disk_is_asked(read: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its name, of which no answer would say anything."""
    monkeypatch.setattr(lun, "node", lambda _: Path("/dev/sdx"))
    assert not primary.answers(VOLUME, 1)
    assert read == [Path("/dev/sdx")]


def test_one_whose_session_is_lost_does_not_answer(
    read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def node(_: str) -> Path:
        raise UnreachableError("the session is lost")

    monkeypatch.setattr(lun, "node", node)
    assert not primary.answers(VOLUME, 1)
    with pytest.raises(UnreachableError) as raised:
        primary.require_answer(VOLUME, 1, hint="commit it")
    assert raised.value.hint == "commit it"
    assert read == []
