"""What a volume leaves in /etc for the next boot."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from dmsnap.catalogue.model import MountRecord, Volume, VolumeState
from dmsnap.host import fstab, systemd, udev
from dmsnap.service.health import boot, boot_check
from dmsnap.service.health.finding import Level

STATE = Path("/var/lib/dmsnap")
VOLUME = Volume(
    id=UUID(int=1), name="my-srv", state=VolumeState.PROTECTED, backing="/dev/disk/by-id/a|b",
    recovery="/dev/nothere9", recovery_id=UUID(int=2), store="/st ore", size_bytes=1 << 30,
    block_bytes=65536, chunk_bytes=4096, fs_type="ext4", fs_uuid="aa-BB",
    mounts=(MountRecord("/srv", "ext4", ()),), generation=1, tracking_id="x", created_ns=0,
)  # fmt: skip


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An /etc of our own, on a host with neither udev nor systemd running."""
    monkeypatch.setattr(udev, "RULES", tmp_path / "rules.d")
    monkeypatch.setattr(systemd, "UNITS", tmp_path / "system")
    monkeypatch.setattr(udev, "CONTROL_SOCKET", tmp_path / "none")
    monkeypatch.setattr(systemd, "_RUNNING", tmp_path / "none")
    monkeypatch.setattr(fstab, "FSTAB", tmp_path / "fstab")
    return tmp_path


def files(etc: Path) -> dict[str, str]:
    found = (path for path in etc.rglob("*") if path.is_file())
    return {str(path.relative_to(etc)): path.read_text() for path in found}


def rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_what_is_written_is_what_is_taken_away(etc: Path) -> None:
    lines = "UUID=AA-bb /data ext4 defaults\n/dev/mapper/my-srv /more ext4 defaults\n"
    (etc / "fstab").write_text(lines)
    assert len(list(boot.wrong_files(VOLUME, STATE))) == 3
    boot.prepare(VOLUME, STATE)
    boot.hide(VOLUME)
    written = files(etc)
    ordering = written["system/dmsnap-assemble@my\\x2dsrv.service.d/volume.conf"].splitlines()
    assert ordering[1:] == [
        "[Unit]",
        'RequiresMountsFor="/var/lib/dmsnap" "/st ore"',
        "Before=data.mount more.mount srv.mount local-fs.target",
    ]
    wish = written["system/local-fs.target.d/dmsnap-my-srv.conf"]
    assert wish.endswith("[Unit]\nWants=dmsnap-assemble@my\\x2dsrv.service dmsnap-resume.service\n")
    assert rules(written["rules.d/90-dmsnap-my-srv.rules"]) == [
        'SUBSYSTEM=="block", SYMLINK=="disk/by-id/a?b", ENV{DMSNAP_TWIN}="my-srv"',
        'SUBSYSTEM=="block", KERNEL=="nothere9", ENV{DMSNAP_TWIN}="my-srv"',
    ]
    assert list(boot.wrong_files(VOLUME, STATE)) == []
    boot.withdraw(VOLUME)
    boot.show(VOLUME)
    assert files(etc) == {"fstab": lines.replace("/dev/mapper/my-srv", VOLUME.backing)}
    assert list((etc / "system").iterdir()) == []


def test_a_volume_of_the_network_waits_for_it(etc: Path) -> None:
    boot.prepare(VOLUME, STATE)
    (etc / "fstab").write_text("UUID=aa-BB /srv ext4 _netdev\n")
    boot.prepare(VOLUME, STATE)
    assert sorted(path.name for path in (etc / "system").iterdir()) == [
        "dmsnap-assemble@my\\x2dsrv.service.d",
        "remote-fs.target.d",
    ]
    ordering = boot.ordering_path(VOLUME).read_text()
    assert "remote-fs.target" in ordering
    assert "After=network-online.target" in ordering


def test_copies_stay_hidden_while_they_are_copies(etc: Path) -> None:
    boot.hide(VOLUME)
    boot.show(VOLUME, forget=False)
    (rule,) = rules(boot.rules_path(VOLUME).read_text())
    assert 'KERNEL=="nothere9", ENV{ID_FS_UUID}=="aa-BB", ENV{DMSNAP_TWIN}=' in rule
    boot.show(replace(VOLUME, fs_uuid=""), forget=False)
    assert not boot.rules_path(VOLUME).exists()


def test_a_commit_changes_nothing_of_it(etc: Path) -> None:
    boot.prepare(VOLUME, STATE)
    boot.hide(VOLUME)
    promoted = replace(
        VOLUME, state=VolumeState.PROMOTED, backing=str(VOLUME.recovery), recovery=None,
        previous_backing=VOLUME.backing,
    )  # fmt: skip
    assert boot.rules_file(promoted).is_right()
    assert list(boot.wrong_files(promoted, STATE)) == []


def checks(volume: Volume) -> list[tuple[Level, str]]:
    found = boot_check.volume_checks(volume, STATE)
    return [(check.level, check.sentence) for check in found]


def test_will_it_boot(etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = replace(VOLUME, store="vg0", recovery=None)
    monkeypatch.setattr(boot_check, "containing", lambda _: Path("/"))
    assert {level for level, _ in checks(volume)} == {Level.MISSING}
    boot.prepare(volume, STATE)
    boot.hide(volume)
    assert checks(volume) == [(Level.OK, "assembled")]
    boot.rules_path(volume).unlink()
    ((level, sentence),) = checks(volume)
    assert level is Level.MISSING
    assert "90-dmsnap-my-srv.rules is missing" in sentence


def test_a_store_that_nothing_mounts(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot.prepare(VOLUME, STATE)
    boot.hide(VOLUME)
    monkeypatch.setattr(
        boot_check, "containing", lambda path: Path("/st ore" if "st" in str(path) else "/")
    )
    found = checks(replace(VOLUME, recovery=None))
    assert (
        Level.WARNING,
        "the store in /st ore lies on /st ore, which nothing mounts at boot",
    ) in found
    (etc / "fstab").write_text("LABEL=x /st\\040ore ext4 defaults\n")
    assert not any("nothing mounts" in text for _, text in checks(VOLUME))


def test_mount_units_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "srv.mount").write_text("[Mount]\nWhat=/dev/vg0/srv\nWhere=/srv\nOptions=a%b\n")
    (tmp_path / "odd.mount").write_text("no section\n")
    found = list(boot_check.mount_units(tmp_path))
    assert found == [(tmp_path / "srv.mount", "/dev/vg0/srv")]


def test_what_is_shipped_is_looked_for() -> None:
    root = Path(__file__).parents[2]
    assert (root / "systemd" / boot.UNIT).exists()
    assert (root / "udev-rules" / boot_check.TWIN_RULES).exists()


LUN = "iscsi://192.0.2.7:3260/iqn.2003-01.org.example:x/1#naa.6001405abc"


def test_a_front_on_a_lun_waits_for_the_network(etc: Path) -> None:
    """While the LUN is the recovery volume, nothing waits; afterwards all is as it was."""
    lines = "UUID=aa-BB /srv ext4 defaults,noatime 0 2\nUUID=other /other xfs defaults 0 0\n"
    (etc / "fstab").write_text(lines)
    volume = replace(VOLUME, recovery=LUN)
    boot.prepare(volume, STATE)
    boot.hide(volume)
    before = files(etc)
    assert before["fstab"] == lines
    assert rules(before["rules.d/90-dmsnap-my-srv.rules"])[1:] == [
        'SUBSYSTEM=="block", KERNEL=="sd*", ATTRS{wwid}=="naa.6001405abc", '
        'ENV{DMSNAP_TWIN}="my-srv"',
        'SUBSYSTEM=="block", KERNEL=="dm-*", ENV{DM_UUID}=="mpath-36001405abc", '
        'ENV{DMSNAP_TWIN}="my-srv"',
    ]
    trial = replace(volume, state=VolumeState.TRIAL)
    (step,) = boot.network_steps(volume, trial, STATE)
    for _ in range(2):
        step.do()
    waiting = lines.replace("noatime", "noatime,_netdev,x-dmsnap.lun")
    assert files(etc)["fstab"] == waiting
    assert "After=network-online.target" in boot.ordering_path(volume).read_text()
    promoted = replace(volume, state=VolumeState.PROMOTED, backing=LUN, recovery=None)
    assert boot.network_steps(trial, promoted, STATE) == []
    assert step.undo is not None
    step.undo()
    assert files(etc) == before
    (again,) = boot.network_steps(promoted, volume, STATE)
    again.do()
    assert files(etc) == before


def test_a_line_that_waits_already_is_the_users(etc: Path) -> None:
    lines = "UUID=aa-BB /srv ext4 _netdev 0 2\n"
    (etc / "fstab").write_text(lines)
    trial = replace(VOLUME, recovery=LUN, state=VolumeState.TRIAL)
    boot.prepare(trial, STATE)
    boot.withdraw(trial)
    assert (etc / "fstab").read_text() == lines


def test_a_lun_that_is_given_back_is_named_by_its_link(etc: Path) -> None:
    (etc / "fstab").write_text("/dev/mapper/my-srv /srv ext4 defaults 0 2\n")
    promoted = replace(VOLUME, state=VolumeState.PROMOTED, backing=LUN, recovery=None)
    boot.withdraw(promoted)
    (entry,) = fstab.entries()
    link = "ip-192.0.2.7:3260-iscsi-iqn.2003-01.org.example:x-lun-1"
    assert entry.spec == f"/dev/disk/by-path/{link}"
    assert "_netdev" in entry.options
