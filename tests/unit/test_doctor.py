"""Doctor: what is found of a host, and what it means."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli import program
from dmsnap.errors import OperatingSystemError
from dmsnap.host import capability, systemd
from dmsnap.host.dm import device as dm
from dmsnap.policy.chronology import Reading
from dmsnap.service.configuration import configuration_check
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.configuration_check import Checked
from dmsnap.service.health import doctor, schedule_check, silence
from dmsnap.service.health.doctor import Tool
from dmsnap.service.health.finding import Check, Level
from dmsnap.service.health.silence import Part, Silence
from dmsnap.service.points import clock_record
from dmsnap.service.schedules import schedule
from dmsnap.snapshot import stack


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((4, 19), Level.MISSING), ((5, 7), Level.MISSING), ((5, 8), Level.WARNING),
        ((5, 11), Level.WARNING), ((5, 12), Level.OK), ((6, 12), Level.OK),
    ],
)  # fmt: skip
def test_kernels(version: tuple[int, int], level: Level) -> None:
    check = doctor.kernel_check(version)
    assert check.level is level
    assert f"Linux {version[0]}.{version[1]}" in check.sentence
    assert bool(check.action) == (level is not Level.OK)


def levels(checks: list[Check]) -> dict[str, Level]:
    return {check.name.removeprefix("dm target "): check.level for check in checks}


def test_targets_in_the_kernel_or_as_modules() -> None:
    everything = list(doctor.target_checks(set(stack.TARGETS), lambda _: False))
    assert set(levels(everything)) == set(stack.TARGETS)
    assert set(levels(everything).values()) == {Level.OK}
    some = levels(list(doctor.target_checks({"linear"}, lambda module: module == "dm-snapshot")))
    assert some["era"] is Level.MISSING
    assert some["snapshot-merge"] is some["snapshot-origin"] is some["linear"] is Level.OK
    blind = levels(list(doctor.target_checks(None, lambda module: module in ("dm-era", "dm-mod"))))
    assert (blind["era"], blind["linear"], blind["snapshot"]) == ("ok", "ok", "missing")


def test_tools_name_their_package() -> None:
    tool = Tool("xfs_repair", Level.WARNING, "checks XFS file systems")
    assert doctor.tool_check(tool, Path("/sbin/xfs_repair")).level is Level.OK
    check = doctor.tool_check(tool, None)
    assert check.level is Level.WARNING
    assert check.action == "install the package xfsprogs"


def test_io_uring() -> None:
    assert doctor.io_uring_check(0).level is Level.OK
    check = doctor.io_uring_check(errno.EPERM)
    assert check.level is Level.WARNING
    assert "Operation not permitted" in check.sentence


def test_rules_are_needed_where_udev_runs(tmp_path: Path) -> None:
    assert doctor.udev_check(False, [tmp_path]).level is Level.OK
    assert doctor.udev_check(True, [tmp_path]).level is Level.MISSING
    (tmp_path / doctor.RULES).write_text("")
    check = doctor.udev_check(True, [tmp_path / "none", tmp_path])
    assert (check.level, check.sentence) == (Level.OK, str(tmp_path / doctor.RULES))
    (tmp_path / "off").mkdir()
    (tmp_path / "off" / doctor.RULES).symlink_to("/dev/null")
    assert doctor.udev_check(True, [tmp_path / "off", tmp_path]).level is Level.MISSING


def test_the_rules_that_it_looks_for_are_those_that_are_shipped() -> None:
    assert (Path(__file__).parents[2] / "udev-rules" / doctor.RULES).exists()


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "made at first use" in doctor.directory_check("x", tmp_path / "a" / "b").sentence
    assert "made at first use" not in doctor.directory_check("x", tmp_path).sentence
    (tmp_path / "file").write_text("")
    assert doctor.directory_check("x", tmp_path / "file" / "a").level is Level.MISSING
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[4] = 3  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    assert doctor.directory_check("x", tmp_path).level is Level.WARNING
    fields[8] = os.ST_RDONLY
    assert doctor.directory_check("x", tmp_path).level is Level.MISSING


def test_the_catalogue(tmp_path: Path) -> None:
    settings = Configuration(state_directory=tmp_path)
    path = tmp_path / "catalogue.db"
    assert doctor.catalogue_check(settings, root=False).level is Level.WARNING
    check = doctor.catalogue_check(settings, root=True)
    assert check.level is Level.OK
    assert not path.exists(), "looking makes nothing"
    with Catalogue.open(settings.catalogue_place):
        pass
    assert "0 volumes" in doctor.catalogue_check(settings, root=True).sentence
    path.write_bytes(b"\xa5" * 8192)
    check = doctor.catalogue_check(settings, root=True)
    assert check.level is Level.MISSING
    assert "damaged" in check.sentence
    assert check.action


def test_the_store(tmp_path: Path) -> None:
    assert doctor.store_check(str(tmp_path), root=True).level is Level.OK
    check = doctor.store_check(str(tmp_path / "none"), root=True)
    assert check.level is Level.WARNING
    assert "mkdir" in str(check.action)
    assert doctor.store_check("vg0", root=False).level is Level.WARNING


def test_disks_that_do_not_answer_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And LVM, which would wait for any disk of the host, is asked for nothing then."""
    settings = Configuration(state_directory=tmp_path)
    assert doctor.silence_checks(settings) == []
    with Catalogue.open(settings.catalogue_place) as catalogue:
        for name in ("srv", "home"):
            catalogue.add_volume(a_volume(name))

    def of_volumes(volumes: list[Volume], _recorded: object) -> dict[UUID, Silence]:
        (hanging,) = [volume.id for volume in volumes if volume.name == "srv"]
        said = Silence({Part.RECOVERY: "the recovery volume /dev/sdb does not answer"}, True)
        return {volume.id: Silence(anywhere=True) for volume in volumes} | {hanging: said}

    monkeypatch.setattr(silence, "of_volumes", of_volumes)
    (check,) = doctor.silence_checks(settings)
    assert (check.name, check.level) == ("disks of srv", Level.MISSING)
    assert check.sentence == "the recovery volume /dev/sdb does not answer"
    store = doctor.store_check("vg0", root=True, lvm_hangs=True)
    assert store.level is Level.WARNING
    assert "LVM would wait" in store.sentence
    assert doctor.store_check(str(tmp_path), root=True, lvm_hangs=True).level is Level.OK


def test_a_wrong_configuration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dmsnap.toml"
    path.write_text("cow_percent = 0\n")
    monkeypatch.setenv("DMSNAP_CONFIG", str(path))
    (check,) = doctor.configured_checks(root=True)
    assert check.level is Level.MISSING
    assert str(path) in check.sentence


TIMED = """
[policy.daily]
schedule = "hourly"
[policy.weekly]
schedule = "weekly"
[subclient.a]
volumes = ["srv"]
policy = "daily"
"""
TIMER = "dmsnap-policy@daily.timer"


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Checked]:
    monkeypatch.setattr(systemd, "is_calendar", lambda _: True)
    monkeypatch.setattr(systemd, "elapses", lambda *_: [])

    def check(text: str) -> Checked:
        path = tmp_path / "dmsnap.toml"
        path.write_text(text)
        return configuration_check.check(path)

    return check


def test_a_mistake_by_which_runs_fail_is_no_warning(
    checked: Callable[[str], Checked], tmp_path: Path
) -> None:
    units = tmp_path / "units"
    units.mkdir()
    assert schedule_check.configuration_check(checked(TIMED), units).level is Level.OK
    for wrong in (TIMED.replace("schedule", "kep = 1\nschedule", 1),
                  TIMED.replace('"hourly"', "7")):  # fmt: skip
        found = schedule_check.configuration_check(checked(wrong), units)
        assert found.level is Level.MISSING
        assert "every run of a policy fails" in found.sentence
        assert list(schedule_check.checks(checked(wrong), units, with_systemd=True)) == []
    broken = checked("[policy.daily\n")
    assert schedule_check.configuration_check(broken, units).level is Level.WARNING
    (units / TIMER).write_text("")  # it was right when it was applied
    assert schedule_check.configuration_check(broken, units).level is Level.MISSING


def test_what_was_declared_and_never_applied_is_found(
    checked: Callable[[str], Checked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = tmp_path / "units"
    units.mkdir()
    states = ["enabled", "active"]
    monkeypatch.setattr(systemd, "properties", lambda *_: states)

    def found(text: str, with_systemd: bool = True) -> list[tuple[Level, str]]:
        checks = schedule_check.checks(checked(text), units, with_systemd=with_systemd)
        return [(check.level, check.sentence) for check in checks]

    assert found("") == found("", False) == []
    assert found(TIMED) == [(Level.MISSING, f"{TIMER} is not as it is declared (add)")]
    assert [level for level, _ in found(TIMED, False)] == [Level.WARNING]
    (units / TIMER).write_text(schedule.timers(checked(TIMED).declared)[TIMER])
    assert found(TIMED) == [(Level.OK, f"{TIMER}: in force")]
    assert found("") == [(Level.MISSING, f"{TIMER} is not as it is declared (remove)")]
    for states in (["disabled", "active"], ["enabled", "inactive"]):  # noqa: B007 - of the lambda
        assert found(TIMED) == [(Level.MISSING, f"{TIMER}: not enabled, or not started")]


def test_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_active, level in ((True, Level.OK), (False, Level.WARNING)):
        monkeypatch.setattr(systemd, "is_active", lambda _unit, now=is_active: now)
        assert schedule_check.service_check().level is level


def test_what_is_declared_wrongly_and_has_no_schedule_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tables.toml").write_text("[policy.daily]\nkeeep = 1\n[pool.x]\n")
    monkeypatch.setenv("DMSNAP_CONFIG", str(tmp_path))
    check = next(doctor.configured_checks(root=False))
    assert check.level is Level.WARNING
    assert check.sentence.startswith(f"{tmp_path}/tables.toml:2: policy.daily.keeep: there is no")
    assert check.sentence.endswith(", and 1 more")
    assert check.action == "dmsnap config check"


RETAINED = f"{TIMED}[policy.kept]\nhistory = {{ daily = 7 }}\n"


def test_a_clock_by_which_nothing_goes(
    checked: Callable[[str], Checked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock(text: str = RETAINED) -> list[Check]:
        return list(schedule_check.clock_check(checked(text), tmp_path))

    assert clock(TIMED) == []  # nothing is to go
    (found,) = clock()
    assert found.level is Level.OK
    ahead = Reading(2**62, 0, "another boot")
    clock_record.record(tmp_path / clock_record.FILE, [ahead])
    before = (tmp_path / clock_record.FILE).read_bytes()
    (found,) = clock()
    assert found.level is Level.WARNING
    assert found.sentence.startswith("nothing is pruned: the clock was set, or the host was off")
    assert "NTP" in (found.action or "")
    assert (tmp_path / clock_record.FILE).read_bytes() == before

    def refuse(*_: object, **__: object) -> None:
        raise OperatingSystemError("it cannot be read")

    monkeypatch.setattr(clock_record, "trusted_now", refuse)
    (found,) = clock()
    assert (found.level, found.sentence) == (Level.WARNING, "not checked: it cannot be read")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """A host that has all that is needed; with root or without."""

    def prepare(root: bool) -> None:
        def targets() -> dict[str, tuple[int, int, int]]:
            if not root:
                raise OperatingSystemError("device-mapper does not answer")
            return dict.fromkeys(stack.TARGETS, (1, 0, 0))

        path = tmp_path / "dmsnap.toml"
        store = tmp_path / "state" / "store"
        store.mkdir(parents=True)
        path.write_text(f'state_directory = "{store.parent}"\nrun_directory = "{tmp_path}"\n')
        monkeypatch.setenv("DMSNAP_CONFIG", str(path))
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr(dm, "targets", targets)
        monkeypatch.setattr(capability, "has_module", lambda _name: True)
        monkeypatch.setattr(doctor, "which", lambda name: Path("/usr/bin", name))
        monkeypatch.setattr("dmsnap.host.udev.is_running", lambda: False)

    return prepare


def test_a_host_that_has_everything(
    host: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(True)
    assert program.main(["doctor"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith("0 missing, ")
    assert not [line for line in shown if line.startswith("missing")]


def test_without_root_what_was_not_checked_is_said(
    host: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(False)
    assert program.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    by_name = {check["name"]: check for check in found["checks"]}
    assert by_name["privileges"]["level"] == "warning"
    assert by_name["catalogue"]["sentence"] == doctor.NOT_ROOT
    assert set(by_name["kernel"]) == {"name", "level", "sentence", "action"}


def test_what_is_missing_makes_it_fail(
    host: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host(True)
    monkeypatch.setattr(doctor, "which", lambda _name: None)
    assert program.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "to do: install the package util-linux" in shown
    assert program.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_modules_are_looked_up_by_the_running_release(tmp_path: Path) -> None:
    directory = tmp_path / "6.1.0"
    directory.mkdir()
    (directory / "modules.dep").write_text(
        "kernel/drivers/md/dm-era.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n"
        "kernel/drivers/md/persistent-data/dm_persistent_data.ko:\n"
    )
    (directory / "modules.builtin").write_text("kernel/drivers/md/dm-mod.ko\n")

    def has(name: str, release: str = "6.1.0") -> bool:
        return capability.has_module(name, modules=tmp_path, release=release)

    assert has("dm-era")
    assert has("dm-mod")
    assert has("dm-persistent-data")
    assert not has("dm-snapshot")
    assert not has("dm-era", release="6.2.0")


def test_io_uring_is_probed_for_real() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - links come and go
    assert capability.io_uring_refusal() in (0, errno.ENOSYS, errno.EPERM)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_exporting_needs_modules_of_lio() -> None:
    assert doctor.lio_check(lambda _: True).level is Level.OK
    check = doctor.lio_check(lambda module: module != "iscsi_target_mod")
    assert check.level is Level.WARNING
    assert "has no iscsi_target_mod: LUNs cannot be exported" in check.sentence
