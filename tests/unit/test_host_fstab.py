"""fstab: reading it, and changing one field of it."""

import fcntl
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from dmsnap.errors import NotPermittedError
from dmsnap.host import fstab, locks, replacement, systemd
from dmsnap.host.fstab import Entry

TEXT = """# a comment\tstays
UUID=3f2a-11  /srv\text4   noatime,nofail 0 2
\t/dev/vg0/my\\040data /my\\040data xfs defaults 0 0 # so does this

half a line
LABEL="boot" /boot vfat context="a,b",ro
none swap
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fstab"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def test_a_link_is_named_as_udev_names_it() -> None:
    """With what it leaves out of names as its code."""
    assert fstab.link_by_content("UUID=aa-BB") == Path("/dev/disk/by-uuid/aa-BB")
    label = fstab.link_by_content(r"LABEL=a b/\ü#+-.:=@_")
    assert label == Path(r"/dev/disk/by-label/a\x20b\x2f\x5cü#+-.:=@_")
    assert fstab.link_by_content("PARTUUID=1") is None
    assert fstab.link_by_content("/dev/sdb") is None


def test_lines(file: Path) -> None:
    assert fstab.entries(path=file) == [
        Entry("UUID=3f2a-11", "/srv", "ext4", ("noatime", "nofail")),
        Entry("/dev/vg0/my data", "/my data", "xfs", ("defaults",)),
        Entry("half", "a", "line", ("defaults",)),
        Entry("LABEL=boot", "/boot", "vfat", ('context="a,b"', "ro")),
    ]
    assert fstab.entries(path=file.with_name("none")) == []


def test_only_blanks_tabs_and_newlines_part_a_file(file: Path) -> None:
    """As fstab(5) has it: what else Python takes for white space may be in a name."""
    name = "/srv/a\u00a0b\u2028c\x0cd"
    text = f"/dev/sdb1 {name} ext4 noatime 0 2\n# of old:\x0c/dev/sdb1 /old ext4 defaults\n"
    file.write_text(text)
    assert fstab.entries(path=file) == [Entry("/dev/sdb1", name, "ext4", ("noatime",))]
    fstab.set_options(lambda entry: (*entry.options, "_netdev"), path=file)
    fstab.respell(lambda _: "/dev/mapper/srv", path=file)
    after = text.replace("noatime", "noatime,_netdev").replace("/dev/sdb1", "/dev/mapper/srv", 1)
    assert file.read_text() == after


def test_only_the_first_field_changes(file: Path) -> None:
    changed = fstab.respell(
        lambda entry: "/dev/mapper/a b" if entry.mount_point == "/my data" else None, path=file
    )
    assert [entry.spec for entry in changed] == ["/dev/vg0/my data"]
    assert file.read_text() == TEXT.replace("/dev/vg0/my\\040data", "/dev/mapper/a\\040b")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    inode = file.stat().st_ino
    assert fstab.respell(lambda entry: entry.spec, path=file) == []
    assert file.stat().st_ino == inode, "nothing to change, nothing written"
    assert os.listdir(file.parent) == ["fstab"]  # noqa: PTH208 - hidden ones too


def test_a_link_to_fstab_stays_one(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    fstab.respell(lambda _: "/dev/x", path=link)
    assert link.is_symlink()
    assert "/dev/x /srv" in file.read_text().replace("  ", " ")


def test_tags_that_name_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def status(path: str) -> SimpleNamespace:
        asked.append(path)
        if "missing" in path:
            raise FileNotFoundError
        return SimpleNamespace(st_mode=stat.S_IFCHR if "tty" in path else stat.S_IFBLK, st_rdev=7)

    monkeypatch.setattr("dmsnap.host.fstab.os.stat", status)
    assert fstab.devno_of("PARTUUID=12-34") == 7
    assert fstab.devno_of("/dev/vg/a") == 7
    assert fstab.devno_of("UUID=12") is None
    assert fstab.devno_of("LABEL=12") is None
    assert fstab.devno_of("tmpfs") is None
    assert fstab.devno_of("/dev/missing") is None
    assert fstab.devno_of("/dev/tty") is None
    assert asked[:2] == ["/dev/disk/by-partuuid/12-34", "/dev/vg/a"]


def test_a_file_is_replaced_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made" / "file"
    replacement.replace_file(path, "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def fails(_descriptor: int) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr("dmsnap.host.replacement.os.fsync", fails)
    with pytest.raises(NotPermittedError, match="cannot write"):
        replacement.replace_file(path, "two")
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_command_left_beside_a_file_goes(tmp_path: Path) -> None:
    """Of this file alone, and nothing that somebody else may have put there, or writes just now."""
    path = tmp_path / "fstab"
    path.write_text(TEXT)
    left = tmp_path / ".fstab.dmsnap-0123abcd"
    others = {
        tmp_path / name
        for name in (".fstab.0123abcd", ".fstab.dmsnap-0123abcd~", ".other.dmsnap-0123abcd")
    }
    busy, made = tmp_path / ".fstab.dmsnap-11111111", tmp_path / ".fstab.dmsnap-22222222"
    link, directory = tmp_path / ".fstab.dmsnap-33333333", tmp_path / ".fstab.dmsnap-44444444"
    link.symlink_to(path)
    directory.mkdir()
    for each in (left, busy, *others):
        each.write_text("half a te")
    made.touch()
    with busy.open() as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        replacement.replace_file(path, "new")
        assert {*tmp_path.iterdir()} == {path, busy, made, link, directory, *others}
    os.utime(made, (1, 1))
    replacement.replace_file(path, "newer")
    assert {*tmp_path.iterdir()} == {path, link, directory, *others}
    assert path.read_text() == "newer"


def test_what_was_left_goes_though_there_is_nothing_to_write(tmp_path: Path, file: Path) -> None:
    left = [tmp_path / ".fstab.dmsnap-0123abcd", tmp_path / ".gone.dmsnap-0123abcd"]
    for each in left:
        each.write_text("half a te")
    assert fstab.respell(lambda entry: entry.spec, path=file) == []
    replacement.remove_file(tmp_path / "gone")
    assert [each for each in left if each.exists()] == []


def test_two_commands_change_fstab_one_after_the_other(file: Path) -> None:
    """Else the second would write what it had read, without the line of the first."""
    here, there = threading.Event(), threading.Event()

    def slowly(entry: Entry) -> str | None:
        if not here.is_set():
            here.set()
            there.wait(0.3)
        return "/dev/mapper/one" if entry.mount_point == "/srv" else None

    with ThreadPoolExecutor() as pool:
        first = pool.submit(fstab.respell, slowly, path=file)
        assert here.wait(60)
        fstab.respell(
            lambda entry: "/dev/mapper/two" if entry.mount_point == "/my data" else None, path=file
        )
        there.set()
        assert [entry.mount_point for entry in first.result()] == ["/srv"]
    assert {"/dev/mapper/one", "/dev/mapper/two"} < {e.spec for e in fstab.entries(path=file)}


def test_who_keeps_the_directory_locked_holds_up_nobody(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fstab, "LOCK_SECONDS", 0.01)
    with locks.moment_lock(file.parent, 0):
        assert fstab.respell(lambda _: "/dev/x", path=file)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/srv", "srv.mount"),
        ("/", "-.mount"),
        ("/var//lib/a-b/", "var-lib-a\\x2db.mount"),
        ("/.hidden/ü", "\\x2ehidden-\\xc3\\xbc.mount"),
    ],
)
def test_names_of_mount_units(path: str, unit: str) -> None:
    assert systemd.mount_unit(path) == unit


def test_words_in_unit_files() -> None:
    assert systemd.escape("a-b.c+d") == "a\\x2db.c\\x2bd"
    assert systemd.quoted('/a b"c\\%') == '"/a b\\"c\\\\%%"'


def test_only_the_options_change(file: Path) -> None:
    def options(entry: Entry) -> tuple[str, ...]:
        return (*entry.options, "_netdev") if entry.mount_point in ("/srv", "a") else entry.options

    fstab.set_options(options, path=file)
    assert file.read_text() == TEXT.replace("noatime,nofail 0", "noatime,nofail,_netdev 0").replace(
        "half a line", "half a line defaults,_netdev"
    )
    fstab.set_options(lambda entry: [o for o in entry.options if o != "_netdev"], path=file)
    assert file.read_text() == TEXT.replace("half a line", "half a line defaults")
