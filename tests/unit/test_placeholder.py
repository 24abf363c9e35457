"""Which mounts are placeholders: nothing that anybody else could miss."""

from types import SimpleNamespace
from uuid import UUID

import pytest

from dmsnap.errors import OperatingSystemError
from dmsnap.host import mount_tree, placeholder
from dmsnap.host.mountinfo import Mount, parse_line

SOURCE = placeholder.source(UUID(int=1), "db-1.x")
OPTIONS = "ro,nr_inodes=2,mode=0,inode64"


def mounted(source: str = SOURCE, fs_type: str = "tmpfs", options: str = OPTIONS) -> Mount:
    return parse_line(f"40 21 0:45 / /srv ro,nosuid - {fs_type} {source} {options}")


def test_what_was_made_as_one_is_one() -> None:
    assert placeholder.is_placeholder(mounted())


@pytest.mark.parametrize(
    "entry",
    [
        mounted("tmpfs"),
        mounted("dmsnap-db-1.x-placeholder"),
        mounted(SOURCE.removeprefix("DMSNAP-")),
        mounted(fs_type="ext4"),
        mounted(options="rw"),
        mounted(options="rw,nr_inodes=100,mode=0"),
    ],
)
def test_what_could_hold_a_file_is_none(entry: Mount) -> None:
    assert not placeholder.is_placeholder(entry)


def test_a_library_without_the_calls_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of RHEL 9: as a kernel without them."""
    monkeypatch.setattr(mount_tree, "_LIBC", SimpleNamespace())
    with pytest.raises(OperatingSystemError, match="fsopen"), mount_tree.made("tmpfs", {}):
        pytest.fail("made one")
