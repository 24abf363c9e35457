"""Volumes that were protected while they were mounted: their front until the next boot."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from dmsnap.catalogue.model import LiveFront, MountRecord, Volume, VolumeState
from dmsnap.errors import WrongStateError
from dmsnap.host import fstab, kernel, systemd, udev
from dmsnap.host.dm import device as dm
from dmsnap.host.dm import state
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import parse_table
from dmsnap.host.sysfs import Sysfs
from dmsnap.service.health import boot, boot_check
from dmsnap.service.volumes import live_link
from dmsnap.snapshot import layers, stack
from dmsnap.units import MIB

BOOT = "4a0c"
LV = LiveFront("vg-data", "LVM-abcDEF", BOOT)
VOLUME = Volume(
    id=UUID(int=1), name="srv", state=VolumeState.PROTECTED, backing="/dev/vg/data",
    recovery="/dev/nothere9", recovery_id=UUID(int=2), store="/store", size_bytes=64 * MIB,
    block_bytes=65536, chunk_bytes=4096, fs_type="ext4", fs_uuid="aa-BB",
    mounts=(MountRecord("/srv", "ext4", ()),), generation=1, tracking_id="x", created_ns=0,
    live=LV,
)  # fmt: skip
LINEAR = "0 131072 linear 7:0 2048"


@pytest.fixture(autouse=True)
def this_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "boot_id", lambda: BOOT)


def test_the_lv_is_the_front_in_this_boot_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = stack.own_front(VOLUME)
    assert own.uuid.startswith("DMSNAP-")
    assert stack.front(VOLUME) == stack.DmName("vg-data", "LVM-abcDEF")
    assert stack.front(replace(VOLUME, live=None)) == own
    monkeypatch.setattr(kernel, "boot_id", lambda: "another")
    assert stack.live_front(VOLUME) is None
    assert stack.front(VOLUME) == own


def test_a_base_stands_for_one_device() -> None:
    """After a commit the volume lies on another one."""
    promoted = replace(VOLUME, backing="/dev/nothere9", live=None)
    assert stack.base(promoted) != stack.base(VOLUME)
    assert stack.base(replace(VOLUME, live=None, generation=3)) == stack.base(VOLUME)
    assert stack.base(VOLUME).uuid.startswith(f"DMSNAP-{VOLUME.id}-base-")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of our own, on a host with neither udev nor systemd running."""
    monkeypatch.setattr(udev, "RULES", tmp_path / "rules.d")
    monkeypatch.setattr(udev, "RUNTIME_RULES", tmp_path / "run")
    monkeypatch.setattr(udev, "CONTROL_SOCKET", tmp_path / "none")
    monkeypatch.setattr(systemd, "UNITS", tmp_path / "system")
    monkeypatch.setattr(systemd, "_RUNNING", tmp_path / "none")
    monkeypatch.setattr(fstab, "FSTAB", tmp_path / "fstab")
    monkeypatch.setattr(state, "DIRECTORY", tmp_path / "mapper")
    (tmp_path / "mapper").mkdir()
    (tmp_path / "mapper" / "vg-data").touch()
    return tmp_path


def test_the_name_leads_to_the_lv_until_it_is_taken_away(etc: Path) -> None:
    live_link.show(VOLUME)
    live_link.show(VOLUME)
    link = etc / "mapper" / "srv"
    assert link.resolve() == etc / "mapper" / "vg-data"
    (path,) = (etc / "run").iterdir()
    rule = path.read_text().splitlines()[-1]
    assert rule == (
        'SUBSYSTEM=="block", ENV{DM_UUID}=="LVM-abcDEF", ENV{DMSNAP_TWIN}="", '
        'SYMLINK+="mapper/srv dmsnap/srv"'
    )
    # After the rules that mark the volume's devices, before those that hide what is marked.
    assert boot.rules_path(VOLUME).name < path.name < min(boot_check.TWIN_RULES)
    live_link.hide(VOLUME)
    live_link.hide(VOLUME)
    assert not link.is_symlink()
    assert list((etc / "run").iterdir()) == []


def test_rules_of_an_earlier_version_keep_the_lv_shown(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs came behind all others: too late, once the rules that know the LV come first."""
    monkeypatch.setattr(boot, "present", lambda _: [])
    former = etc / "run" / "91-dmsnap-live-srv.rules"
    boot.hide(VOLUME)
    assert not (etc / "run").exists()  # it is no front any more
    for leave in (boot.hide, live_link.hide):
        former.parent.mkdir(exist_ok=True)
        former.write_text("# of an earlier version\n")
        leave(VOLUME)
        shown = live_link.rules_path(VOLUME)
        assert list((etc / "run").iterdir()) == ([shown] if leave is boot.hide else [])
        if leave is boot.hide:
            assert shown.read_text() == live_link.rules(VOLUME)


def test_a_line_that_names_the_front_is_right_while_that_leads_to_the_lv(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "names_device", lambda _entry, path: path == VOLUME.backing)
    (etc / "fstab").write_text("/dev/mapper/srv /srv ext4 defaults 0 2\n")
    assert list(boot_check.mount_findings(VOLUME)) == []
    (etc / "fstab").write_text("/dev/vg/data /srv ext4 defaults 0 2\n")
    ((_, sentence, _),) = boot_check.mount_findings(VOLUME)
    assert "/dev/vg/data" in sentence


Tables = Callable[[str], None]


@pytest.fixture
def lv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tables:
    """The LV's table; what it lies on is a disk, or a dm device when its number is 253:9."""
    blocks = tmp_path / "dev" / "block"
    blocks.mkdir(parents=True)
    for number in ("7:0", "253:9"):
        (tmp_path / "devices" / number / "dm").mkdir(parents=True)
        (blocks / number).symlink_to(tmp_path / "devices" / number)
    (blocks / "253:9" / "dm" / "uuid").write_text("LVM-below\n")
    (blocks / "253:9" / "dm" / "name").write_text("vg-pvmove0\n")
    monkeypatch.setattr(layers, "SYSFS", Sysfs(tmp_path))

    def set_table(text: str) -> None:
        monkeypatch.setattr(dm, "table", lambda _name: parse_table(text.splitlines()))
        below = [(253 << 8) | 9] if "253:9" in text else [7 << 8]
        monkeypatch.setattr(dm, "deps", lambda _name: below)

    return set_table


INFO = DmInfo("vg-data", "LVM-abcDEF", 253 << 8, 1, False, True, False, False, 0)


@pytest.mark.parametrize(
    "text",
    [
        LINEAR,
        "0 65536 linear 7:0 2048\n65536 65536 linear 7:1 2048",
        "0 131072 striped 2 128 7:0 2048 7:1 2048",
    ],
)
def test_a_table_that_keeps_nothing_is_copied(lv: Tables, text: str) -> None:
    lv(text)
    assert layers.require_own_table(INFO, 64 * MIB) == parse_table(text.splitlines())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0 131072 thin 253:2 1", "table is of thin"),
        ("0 131072 snapshot-origin 253:3", "table is of snapshot-origin"),
        ("0 65536 linear 7:0 2048\n65536 65536 error", "table is of error"),
        ("", "table is of nothing"),
        ("0 131072 linear 253:9 0", "lies on vg-pvmove0"),
        ("0 262144 linear 7:0 2048", "has 128 MiB now, and had 64 MiB"),
    ],
)
def test_any_other_is_refused(lv: Tables, text: str, sentence: str) -> None:
    lv(text)
    with pytest.raises(WrongStateError, match=sentence):
        layers.require_own_table(INFO, 64 * MIB)
