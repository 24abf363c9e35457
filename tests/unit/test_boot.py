"""What a volume leaves in /etc for the next boot."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from dmsnap.catalogue.model import MountRecord, Volume, VolumeState
from dmsnap.errors import (
    BusyError,
    DmsnapError,
    ForeignDeviceError,
    NotFoundError,
    UnreachableError,
)
from dmsnap.host import blockdev, capability, fstab, lun, replacement, systemd, udev
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.sysfs import Sysfs
from dmsnap.service.health import boot, boot_check
from dmsnap.service.health.finding import Level
from dmsnap.snapshot import stack
from dmsnap.units import to_bytes

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
    monkeypatch.setattr(stack, "find", lambda _: None)
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
    (etc / "rules.d").mkdir()
    (etc / "rules.d" / "90-dmsnap-my-srv.rules").touch()  # where they were once
    boot.hide(VOLUME)
    written = files(etc)
    ordering = written["system/dmsnap-assemble@my\\x2dsrv.service.d/volume.conf"].splitlines()
    assert ordering[1:] == [
        "[Unit]",
        'RequiresMountsFor="/var/lib/dmsnap"',
        "Wants=st\\x20ore.mount",
        "After=st\\x20ore.mount",
        "Before=data.mount more.mount srv.mount local-fs.target",
    ]
    wish = written["system/local-fs.target.d/dmsnap-my-srv.conf"]
    assert wish.endswith("[Unit]\nWants=dmsnap-assemble@my\\x2dsrv.service dmsnap-resume.service\n")
    assert rules(written["rules.d/64-0-dmsnap-my-srv.rules"]) == [
        'SUBSYSTEM=="block", SYMLINK=="disk/by-id/a?b", ENV{DMSNAP_TWIN}="my-srv"',
        'SUBSYSTEM=="block", KERNEL=="nothere9", ENV{DMSNAP_TWIN}="my-srv"',
    ]
    assert list(boot.wrong_files(VOLUME, STATE)) == []
    boot.withdraw(VOLUME)
    boot.show(VOLUME)
    assert files(etc) == {"fstab": lines.replace("/dev/mapper/my-srv", VOLUME.backing)}
    assert list((etc / "system").iterdir()) == []


def test_where_all_is_right_nothing_is_written(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an /etc that is read-only by now, where unlink(2) refuses what is not there, too."""
    (etc / "fstab").write_text("UUID=aa-BB /srv ext4 defaults\n")
    boot.prepare(VOLUME, STATE)
    boot.hide(VOLUME)
    before = files(etc)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(replacement, "_replace", refuse)
    boot.prepare(VOLUME, STATE)
    boot.hide(VOLUME)
    other = replace(VOLUME, name="other", fs_uuid="")
    boot.withdraw(other)  # of a protect that could write nothing
    boot.show(other)
    assert files(etc) == before


def test_a_store_is_waited_for_and_not_needed(etc: Path) -> None:
    """Where its disk is gone its mount fails, and the unit is begun all the same."""
    boot.prepare(replace(VOLUME, store="/a/b-c/store"), STATE)
    ordering = boot.ordering_path(VOLUME).read_text()
    for word in ("Wants", "After"):
        assert f"\n{word}=a.mount a-b\\x2dc.mount a-b\\x2dc-store.mount\n" in ordering
    boot.prepare(replace(VOLUME, store="group"), STATE)
    assert "Wants=" not in boot.ordering_path(VOLUME).read_text()


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
    assert "removes this file" in boot.rules_path(VOLUME).read_text().splitlines()[0]
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
    monkeypatch.setattr(lun, "is_present", lambda _: True)
    assert {level for level, _ in checks(volume)} == {Level.MISSING}
    boot.prepare(volume, STATE)
    boot.hide(volume)
    assert checks(volume) == [(Level.OK, "assembled")]
    boot.rules_path(volume).unlink()
    ((level, sentence),) = checks(volume)
    assert level is Level.MISSING
    assert "64-0-dmsnap-my-srv.rules is missing" in sentence


def test_what_lies_on_the_device_beside_the_front_is_named(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot.prepare(VOLUME, STATE)
    boot.hide(VOLUME)
    disk = BlockDevice(Path("/dev/sdx"), os.makedev(8, 16), to_bytes(8), 512, read_only=False)
    monkeypatch.setattr(BlockDevice, "probe", lambda _path: disk)
    monkeypatch.setattr(stack, "SYSFS", Sysfs(tmp_path / "sys"))
    holders = {"dm-0": f"DMSNAP-{VOLUME.id}-origin-1", "dm-1": "LVM-abc"}
    for number, (name, uuid) in enumerate(holders.items()):
        directory = tmp_path / "sys" / "block" / name
        write(directory / "dm" / "uuid", uuid)
        write(directory / "dm" / "name", "data-lv")
        write(directory / "dev", f"254:{number}")
        write(tmp_path / "sys" / "block" / "sdx" / "holders" / name / "dev", f"254:{number}")
        link(tmp_path, f"254:{number}", name)
    link(tmp_path, "8:16", "sdx")
    volume = replace(VOLUME, recovery=None)
    ((level, sentence, _),) = boot_check.holder_findings(volume)
    assert level is Level.MISSING
    assert sentence == "/dev/sdx is held by dm-1 (data-lv), past the front of my-srv"


@pytest.mark.parametrize("error", [UnreachableError, ForeignDeviceError, BusyError, NotFoundError])
def test_a_device_that_cannot_be_used_keeps_no_other_from_being_checked(
    monkeypatch: pytest.MonkeyPatch, error: type[DmsnapError]
) -> None:
    """A lost session, or paths that multipath has not: whoever looks for the device says so."""

    def lost(_name: str) -> Path:
        raise error("the session to its target is lost")

    monkeypatch.setattr(lun, "node", lost)
    assert list(boot_check.holder_findings(VOLUME)) == []


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def link(root: Path, number: str, name: str) -> None:
    """As sysfs leads from a device's number to its directory."""
    links = root / "sys" / "dev" / "block"
    links.mkdir(parents=True, exist_ok=True)
    (links / number).symlink_to(f"../../block/{name}")


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


Spoil = Callable[[Path, pytest.MonkeyPatch, Volume], Volume]


@pytest.fixture
def ready(etc: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    """A volume in whose way nothing stands: its devices are there, and nothing lies on it."""
    monkeypatch.setattr(boot_check, "containing", lambda _: Path("/"))
    monkeypatch.setattr(lun, "is_present", lambda _: True)
    volume = prepared(replace(VOLUME, store="vg0"))
    assert checks(volume) == [(Level.OK, "assembled")]
    return volume


def prepared(volume: Volume) -> Volume:
    boot.prepare(volume, STATE)
    boot.hide(volume)
    return volume


def line_of_a_copy(etc: Path, patch: pytest.MonkeyPatch, volume: Volume) -> Volume:
    (etc / "fstab").write_text("/dev/vg1/copy /srv ext4 defaults 0 2\n")
    patch.setattr(boot, "names_device", lambda _, path: path == volume.recovery)
    return volume


def unit_of_the_device(etc: Path, patch: pytest.MonkeyPatch, volume: Volume) -> Volume:
    (etc / "system" / "srv.mount").write_text("[Mount]\nWhat=/dev/vg0/srv\nWhere=/srv\n")
    patch.setattr(boot_check, "is_same", lambda _, path: path == volume.backing)
    return volume


def wrong_link(spec: str, link: str) -> Spoil:
    def spoil(etc: Path, patch: pytest.MonkeyPatch, volume: Volume) -> Volume:
        (etc / "fstab").write_text(f"{spec} /srv ext4 defaults 0 2\n")
        patch.setattr(stack, "find", lambda device: device)
        patch.setattr(boot_check, "lies_on", lambda *_: False)
        patch.setattr(boot_check, "is_same", lambda path, _: path != link)
        return volume

    return spoil


def place_on_it(place: Path, store: str = "vg0") -> Spoil:
    def spoil(_etc: Path, patch: pytest.MonkeyPatch, volume: Volume) -> Volume:
        patch.setattr(boot_check, "lies_on", lambda path, _: path == place)
        return prepared(replace(volume, store=store))

    return spoil


def mounted_on(place: str) -> Spoil:
    return lambda _etc, _patch, volume: prepared(
        replace(volume, mounts=(MountRecord(place, "ext4", ()),))
    )


def store_of_the_network(etc: Path, patch: pytest.MonkeyPatch, volume: Volume) -> Volume:
    (etc / "fstab").write_text("LABEL=x /st\\040ore ext4 _netdev 0 2\n")
    patch.setattr(boot_check, "containing", lambda path: Path(path if path != STATE else "/"))
    return prepared(replace(volume, store="/st ore"))


def missing(device: str, state: VolumeState = VolumeState.PROTECTED) -> Spoil:
    def spoil(_etc: Path, patch: pytest.MonkeyPatch, volume: Volume) -> Volume:
        patch.setattr(lun, "is_present", lambda name: name != device)
        return replace(volume, state=state)

    return spoil


def switched_off(etc: Path, _patch: pytest.MonkeyPatch, volume: Volume) -> Volume:
    (etc / "system" / boot.unit_name(volume)).symlink_to("/dev/null")
    return volume


BACKING, RECOVERY = VOLUME.backing, str(VOLUME.recovery)


@pytest.mark.parametrize(
    ("spoil", "level", "words"),
    [
        (line_of_a_copy, Level.MISSING, "mounts /srv from /dev/vg1/copy, a device of my-srv"),
        (unit_of_the_device, Level.MISSING, "srv.mount mounts /dev/vg0/srv, a device of my-srv"),
        (wrong_link("UUID=aa-BB", "/dev/disk/by-uuid/aa-BB"), Level.MISSING, "does not lead to"),
        (wrong_link("LABEL=a\\040b", r"/dev/disk/by-label/a\x20b"), Level.MISSING, "does not lead"),
        (place_on_it(STATE), Level.MISSING, "the catalogue in /var/lib/dmsnap lies on my-srv"),
        (place_on_it(Path("/st ore"), "/st ore"), Level.MISSING, "the store in /st ore lies on my"),
        (place_on_it(boot_check.PROGRAM), Level.MISSING, "dmsnap itself"),
        (mounted_on("/"), Level.MISSING, "mounted on / or /usr"),
        (mounted_on("/usr"), Level.MISSING, "mounted on / or /usr"),
        (store_of_the_network, Level.MISSING, "waits for the network"),
        (switched_off, Level.MISSING, "nothing assembles my-srv"),
        (missing(RECOVERY), Level.WARNING, "my-srv boots without it"),
        (missing(RECOVERY, VolumeState.TRIAL), Level.MISSING, "cannot be assembled"),
        (missing(BACKING), Level.MISSING, "cannot be assembled"),
        (missing(BACKING, VolumeState.TRIAL), Level.OK, "assembled"),
        (lambda _etc, _patch, volume: prepared(replace(volume, backing="/dev/sdzz")),
         Level.WARNING, "/dev/sdzz has no name that stays"),
        (lambda _etc, _patch, volume: prepared(replace(volume, recovery="/dev/dm-999")),
         Level.WARNING, "/dev/dm-999 has no name that stays"),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_of_a_boot(
    ready: Volume,
    etc: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Spoil,
    level: Level,
    words: str,
) -> None:
    ((found, sentence),) = checks(spoil(etc, monkeypatch, ready))
    assert found is level
    assert words in sentence


def test_a_volume_of_the_network_may_have_its_store_there(
    ready: Volume, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = store_of_the_network(etc, monkeypatch, ready)
    with (etc / "fstab").open("a") as file:
        file.write("/dev/mapper/my-srv /srv ext4 _netdev 0 2\n")
    assert checks(prepared(volume)) == [(Level.OK, "assembled before /srv")]


def test_in_a_trial_the_front_says_what_lies_on_it(
    ready: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies over the recovery volume then, and after a revert it does not."""
    monkeypatch.setattr(stack, "find", lambda _: SimpleNamespace(devno=7))
    monkeypatch.setattr(blockdev, "file_depends_on", lambda _, devno: devno == 7)
    assert boot_check.lies_on(STATE, replace(ready, state=VolumeState.TRIAL))


def put(directory: Path, *, masked: bool = False) -> Path:
    """What is installed for the boot, or switched off there."""
    directory.mkdir()
    for name in (boot.UNIT, *boot_check.TWIN_RULES):
        if masked:
            (directory / name).symlink_to("/dev/null")
        else:
            (directory / name).write_text("x")
    return directory


def test_what_a_host_needs_to_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "has_module", lambda _: True)
    none, there = tmp_path / "none", put(tmp_path / "usr")
    off = put(tmp_path / "etc", masked=True)

    def found(units: Path, rules: Path, *, with_systemd: bool = True) -> list[tuple[Level, str]]:
        places = [none, units, there], [none, rules, there]
        if none in (units, rules):
            places = [units], [rules]
        found = boot_check.host_checks(*places, with_systemd=with_systemd)
        return [(check.level, check.sentence) for check in found]

    assert found(there, there) == [(Level.OK, "unit and rules are installed")]
    assert found(none, none) == [
        (Level.MISSING, f"{name} is not installed") for name in (boot.UNIT, *boot_check.TWIN_RULES)
    ]
    switched_off = "is a link to /dev/null: it is switched off"
    assert found(off, there) == [(Level.MISSING, f"{off / boot.UNIT} {switched_off}")]
    assert found(there, off) == [
        (Level.MISSING, f"{off / name} {switched_off}") for name in boot_check.TWIN_RULES
    ]
    ((level, sentence),) = found(there, there, with_systemd=False)
    assert (level, "nothing builds the stacks" in sentence) == (Level.WARNING, True)
    monkeypatch.setattr(capability, "has_module", lambda _: False)
    assert found(there, there) == [(Level.MISSING, "the kernel has no loop devices")]


def test_mount_units_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "srv.mount").write_text("[Mount]\nWhat=/dev/vg0/srv\nWhere=/srv\nOptions=a%b\n")
    (tmp_path / "odd.mount").write_text("no section\n")
    found = list(boot_check.mount_units(tmp_path))
    assert found == [(tmp_path / "srv.mount", "/dev/vg0/srv")]


def test_what_is_shipped_is_looked_for() -> None:
    root = Path(__file__).parents[2]
    assert (root / "systemd" / boot.UNIT).exists()
    for file in boot_check.TWIN_RULES:
        assert (root / "udev-rules" / file).exists()


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
    assert rules(before["rules.d/64-0-dmsnap-my-srv.rules"])[1:] == [
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


def test_a_lun_that_multipath_has_is_named_by_its_map(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link of a path cannot be mounted."""
    (etc / "fstab").write_text("/dev/mapper/my-srv /srv ext4 defaults 0 2\n")
    by_map = Path("/dev/disk/by-id/dm-uuid-mpath-36001405abc")
    monkeypatch.setattr(lun, "lasting_path", lambda name: {LUN: by_map}[str(name)])
    boot.withdraw(replace(VOLUME, state=VolumeState.PROMOTED, backing=LUN, recovery=None))
    (entry,) = fstab.entries()
    assert entry.spec == str(by_map)


def test_the_paths_of_a_map_are_hidden_with_it(etc: Path) -> None:
    """Whoever starts before multipathd has claimed them sees the volume's file system on each."""
    by_map = "/dev/disk/by-id/dm-uuid-mpath-36001405abc"
    text = boot.rule_line(VOLUME, by_map, 'ENV{ID_FS_UUID}=="aa"')
    mark = 'ENV{ID_FS_UUID}=="aa", ENV{DMSNAP_TWIN}="my-srv"'
    assert text.splitlines() == [
        f'SUBSYSTEM=="block", SYMLINK=="disk/by-id/dm-uuid-mpath-36001405abc", {mark}',
        f'SUBSYSTEM=="block", KERNEL=="sd*", ATTRS{{wwid}}=="naa.6001405abc", {mark}',
    ]
