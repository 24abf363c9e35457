"""The catalogue's file: kept from others, written through; a damaged one is a sentence."""

import fcntl
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from catalogue_samples import a_volume

from dmsnap.catalogue.sqlite import SqliteFile
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import CorruptError, ExitCode, NoSpaceError, OperatingSystemError
from dmsnap.host.locks import LOCK_FILE, directory_lock
from dmsnap.service.session import make_directory


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


def test_what_is_made_above_it_is_kept_from_others_too(tmp_path: Path) -> None:
    """Else they could hold locks in there, for which every command would wait."""
    make_directory(tmp_path / "lib" / "dmsnap" / "store")
    Catalogue.open(tmp_path / "other" / "dmsnap" / "catalogue.db").close()
    made = [each for each in tmp_path.rglob("*") if each.is_dir()]
    assert len(made) == 5
    assert {stat.S_IMODE(each.stat().st_mode) for each in made} == {0o700}


def test_nobody_holds_up_who_opens_it(path: Path) -> None:
    """Neither who can read the directory, nor, once it is as it is to be, who makes another."""
    path.parent.mkdir(0o755)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        Catalogue.open(path).close()
    finally:
        os.close(directory)
    assert (path.parent / LOCK_FILE).stat().st_mode & 0o777 == 0o600
    with directory_lock(path.parent):
        Catalogue.open(path).close()


def test_one_that_was_made_anew_meanwhile_is_used(catalogue: Catalogue, path: Path) -> None:
    """By who had the old one open, as the service has for years."""
    catalogue.add_volume(a_volume("lost"))
    find = sa.text("SELECT count(*) FROM volume")
    with catalogue.transaction() as connection:
        assert connection.scalar(find) == 1
    SqliteFile(path).set_aside()
    with pytest.raises(OperatingSystemError, match="unable to open"):
        catalogue.volumes()
    assert not path.exists()
    with Catalogue.open(path) as anew:
        anew.add_volume(a_volume("found"))
        anew.add_volume(a_volume("also"))
        assert [each.name for each in catalogue.volumes()] == ["also", "found"]
        with catalogue.transaction() as connection:
            assert connection.scalar(find) == 2
        catalogue.add_volume(a_volume("more"))
        assert len(anew.volumes()) == 3


def test_every_transaction_is_written_through(catalogue: Catalogue) -> None:
    with catalogue.statements() as statements, catalogue.transaction() as connection:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert statements.value(f"PRAGMA {pragma}") == value
            assert connection.scalar(sa.text(f"PRAGMA {pragma}")) == value


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


@pytest.mark.parametrize("place", ["gone", "endless", "file"])
def test_a_directory_that_goes_while_it_is_open_is_a_sentence(
    catalogue: Catalogue, path: Path, place: str
) -> None:
    """As its disk does that fails: what the system says of the path is no error of SQLite's."""
    catalogue.add_volume(a_volume())
    path.parent.rename(path.parent.with_name("before"))
    if place == "endless":
        path.parent.symlink_to(path.parent)
    elif place == "file":
        path.parent.write_text("")
    for _ in range(2):
        with pytest.raises(OperatingSystemError, match="the catalogue") as caught:
            catalogue.add_volume(a_volume("other"))
        assert caught.value.exit_code is ExitCode.OS
        with pytest.raises(OperatingSystemError), catalogue.transaction() as connection:
            connection.scalar(sa.text("SELECT 1"))


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


# a file system of a test's own


MOUNT = """
import os, subprocess, sys
from pathlib import Path
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli.program import main

state = Path(sys.argv[1])
def mount(*options):
    subprocess.run(["mount", *options, str(state)], check=True)
def fill():
    with (state / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
mount("-t", "tmpfs", "-o", "size=1m", "none")
os.environ["DMSNAP_CONFIG"] = str(state.parent / "dmsnap.toml")
Path(os.environ["DMSNAP_CONFIG"]).write_text(
    f'state_directory = "{state}"\\nrun_directory = "{state.parent}/run"\\n'
)
"""


def on_its_own_disk(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a small file system mounted at its argument, which nobody else sees."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root can mount")
    (tmp_path / "state").mkdir()
    return subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", MOUNT + script, tmp_path / "state"],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("made_before", [True, False])
def test_a_read_only_file_system_is_a_sentence(tmp_path: Path, made_before: bool) -> None:
    script = "main(['status'])\n" if made_before else "(state / 'store').mkdir()\n"
    script += "mount('-o', 'remount,ro')\nsys.exit(main(['status']))"
    ended = on_its_own_disk(tmp_path, script)
    assert ended.returncode == ExitCode.READ_ONLY, ended.stderr
    (sentence,) = ended.stderr.splitlines()
    assert f"the catalogue {tmp_path}/state/catalogue.db is read-only" in sentence


@pytest.mark.parametrize("made_before", [True, False])
def test_a_full_disk_is_a_sentence(tmp_path: Path, made_before: bool) -> None:
    """What was recorded is still there when there is room again."""
    script = "main(['status'])\n" if made_before else "(state / 'store').mkdir()\n"
    script += "fill()\ncode = main(['job', 'list'])\n"
    script += "(state / 'filler').unlink()\nassert main(['status']) == 0\nsys.exit(code)"
    ended = on_its_own_disk(tmp_path, script)
    assert ended.returncode == ExitCode.NO_SPACE, ended.stderr
    sentence, hint = ended.stderr.splitlines()
    assert "the disk of the catalogue" in sentence
    assert hint.startswith("hint: make room")


def add_many(catalogue: Catalogue) -> None:
    for number in range(200):
        catalogue.add_volume(a_volume(f"volume-{number}"))


def test_a_disk_that_fills_up_is_a_sentence(path: Path) -> None:
    with Catalogue.open(path) as catalogue:
        catalogue.add_volume(a_volume("first"))
        with catalogue.statements() as statements:
            pages = statements.value("PRAGMA page_count")
        with Catalogue.open(path) as limited:
            with limited.statements() as statements:
                statements.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(NoSpaceError, match="is full"):
                add_many(limited)
        catalogue.add_volume(a_volume("last"))
        assert {"first", "last"} <= {volume.name for volume in catalogue.volumes()}
