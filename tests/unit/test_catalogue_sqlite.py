"""The catalogue's file: kept from others, written through; a damaged one is a sentence."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from catalogue_samples import a_volume

from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError, OperatingSystemError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "catalogue.db"


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(path) as opened:
        yield opened


def test_it_is_kept_from_others_and_opens_again(catalogue: Catalogue, path: Path) -> None:
    catalogue.add_volume(a_volume())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with Catalogue.open(path) as second:
        assert len(second.volumes()) == 1


def test_every_transaction_is_written_through(catalogue: Catalogue) -> None:
    with catalogue.transaction() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(sa.text("PRAGMA synchronous")) == 2
        assert connection.scalar(sa.text("PRAGMA foreign_keys")) == 1


@pytest.mark.parametrize("damage", ["garbage", "header", "page"])
def test_a_damaged_file_is_a_sentence(path: Path, damage: str) -> None:
    with Catalogue.open(path) as catalogue:
        for number in range(3):
            catalogue.add_volume(a_volume(f"v{number}"))
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content[:] = b"\xa5" * len(content)
    elif damage == "header":
        content[0:16] = b"not a database!!"
    else:
        content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(CorruptError, match="is damaged") as caught:
        Catalogue.open(path).volumes()
    assert caught.value.hint
    assert str(path) in str(caught.value)


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatingSystemError, match="cannot be opened") as caught:
        Catalogue.open(tmp_path / "file" / "catalogue.db")
    assert caught.value.fields["errnum"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OperatingSystemError, match="cannot be opened"):
        Catalogue.open(tmp_path / "catalogue.db")


def test_a_catalogue_that_another_holds_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmsnap.catalogue.sqlite.BUSY_TIMEOUT_SECONDS", 0.01)
    with Catalogue.open(path) as catalogue, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperatingSystemError, match="locked"):
            catalogue.add_volume(a_volume())
        other.execute("ROLLBACK")
        catalogue.add_volume(a_volume())
