"""What is replaced as a whole, and what is not: links, devices, files of others."""

import os
import stat
from pathlib import Path

import pytest

from dmsnap.errors import ForeignDeviceError
from dmsnap.host import replacement


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """It stands for /dev/null, which these tests do not touch."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def is_pipe(path: Path) -> bool:
    return stat.S_ISFIFO(path.stat().st_mode)


def test_what_is_no_file_is_not_replaced(tmp_path: Path, pipe: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for replace in (replacement.replace_file, replacement.replace_name):
        with pytest.raises(ForeignDeviceError, match="no regular file"):
            replace(pipe, "text")
    with pytest.raises(ForeignDeviceError, match="no regular file"):
        replacement.replace_file(link, "text")
    assert is_pipe(pipe)
    assert {*tmp_path.iterdir()} == {pipe, link}


def test_a_link_to_a_file_is_followed_and_one_to_nothing_is_replaced(tmp_path: Path) -> None:
    file, link, nowhere = tmp_path / "file", tmp_path / "link", tmp_path / "nowhere"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    nowhere.symlink_to(tmp_path / "none" / "such")
    replacement.replace_file(link, "new")
    replacement.replace_file(nowhere, "new")
    assert link.is_symlink()
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o640)
    assert not nowhere.is_symlink()
    assert not (tmp_path / "none").exists()


def test_in_anothers_directory_no_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything given to others, for which a hardened service has no capability."""
    precious, link, theirs = tmp_path / "catalogue.db", tmp_path / "link", tmp_path / "theirs"
    precious.write_text("precious")
    link.symlink_to(precious)
    theirs.write_text("old")
    theirs.chmod(0o666)

    def refused(*_: int) -> None:
        raise PermissionError(1, "no CAP_CHOWN")

    monkeypatch.setattr("dmsnap.host.replacement.os.fchown", refused)
    for path in (link, theirs):
        replacement.replace_name(path, "new")
        assert path.read_text() == "new"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o644
    assert precious.read_text() == "precious"


def test_what_is_switched_off_stays_so(
    tmp_path: Path, pipe: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replacement, "NULL", pipe)
    masked, file, circle = tmp_path / "masked", tmp_path / "file", tmp_path / "circle"
    masked.symlink_to(pipe)
    circle.symlink_to(circle)
    assert not replacement.is_masked(circle)
    for path in (masked, file):
        replacement.replace_unless_masked(path, "text")
    assert masked.is_symlink()
    assert is_pipe(pipe)
    assert file.read_text() == "text"
    assert [str(masked) in each.getMessage() for each in caplog.records] == [True]
