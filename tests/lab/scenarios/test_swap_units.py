"""With systemd: units that use a volume are stopped and started, links and fstab stay."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import MIB, Lab, dmsnap, forked, refused, run, wait_until

from dmsnap.errors import ExitCode
from dmsnap.host import kernel, placeholder, systemd

RULES = Path(__file__).resolve().parents[3] / "udev-rules" / "11-dmsnap.rules"
INSTALLED = Path("/run/udev/rules.d") / RULES.name
SIZE = 64 * MIB
RECOVERY_SIZE = 128 * MIB

pytestmark = pytest.mark.systemd


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    """dmsnap's rules, as a package installs them."""
    INSTALLED.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(RULES, INSTALLED)
    run("udevadm", "control", "--reload")
    yield
    INSTALLED.unlink()
    run("udevadm", "control", "--reload")


@pytest.fixture
def units() -> Iterator[list[Path]]:
    """Unit files of a test, stopped and removed at its end."""
    made: list[Path] = []
    yield made
    for unit in made:
        run("systemctl", "stop", unit.name)
        run("systemctl", "reset-failed", unit.name, expected=None)
        unit.unlink()
    run("systemctl", "daemon-reload")


def service(units: list[Path], mount_point: Path, *lines: str) -> str:
    """A service that keeps a file of the volume open, and notes its starts there."""
    unit = Path("/run/systemd/system") / f"dmsnap-test-{uuid4().hex[:6]}.service"
    script = f"echo start >>{mount_point}/starts; exec sleep infinity <{mount_point}/file"
    unit.write_text(
        "\n".join(["[Unit]", *lines, "[Service]", f"ExecStart=/bin/sh -c '{script}'\n"])
    )
    units.append(unit)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", unit.name)
    return unit.name


def state(unit: str) -> str:
    return run("systemctl", "show", "--property=ActiveState", "--value", unit).strip()


def volume(lab: Lab) -> tuple[str, str, Path]:
    primary, recovery = lab.disk(SIZE), lab.disk(RECOVERY_SIZE)
    mount_point = lab.mounted(primary, options="noatime")
    (mount_point / "file").write_text("one")
    return primary, recovery, mount_point


@pytest.fixture
def fstab() -> Iterator[Path]:
    """As it was, at the end."""
    path = Path("/etc/fstab")
    text = path.read_text()
    yield path
    path.write_text(text)
    run("systemctl", "daemon-reload")


def test_units_are_stopped_and_started_again(lab: Lab, units: list[Path], fstab: Path) -> None:
    """A declared one, one that requires the mount; one that does not run is left as it is."""
    primary, recovery, mount_point = volume(lab)
    # systemd has services require a mount only where it has a unit file, as from a line of fstab.
    with fstab.open("a") as lines:
        lines.write(f"{primary} {mount_point} ext4 noatime,noauto 0 0\n")
    declared = service(units, mount_point)
    requiring = service(units, mount_point, f"RequiresMountsFor={mount_point}")
    idle = service(units, mount_point)
    run("systemctl", "stop", declared, requiring, idle)
    name = lab.protect(primary, recovery, "--unit", declared, "--unit", idle)
    run("systemctl", "start", declared, requiring)
    before = fstab.read_text()
    uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", f"/dev/mapper/{name}").strip()
    front = Path(f"/dev/mapper/{name}")
    number = front.stat().st_rdev
    for words in (("swap", name), ("swap", "revert", name), ("swap", name)):
        result = dmsnap(*words)
        assert {"stop-units", "start-units"} <= set(result["steps"])
        assert (state(declared), state(requiring), state(idle)) == ("active", "active", "inactive")
        assert f"{front} {mount_point} ext4" in Path("/proc/mounts").read_text()
        run("udevadm", "settle")
        assert Path(f"/dev/disk/by-uuid/{uuid}").resolve() == front.resolve()
        assert front.stat().st_rdev == number
    dmsnap("swap", "commit", name)
    run("udevadm", "settle")
    assert Path(f"/dev/disk/by-uuid/{uuid}").resolve() == front.resolve()
    assert front.stat().st_rdev == number
    assert fstab.read_text() == before
    assert list(Path("/run/dmsnap/stopped-units").iterdir()) == []
    run("systemctl", "stop", declared, requiring)


def test_a_unit_that_does_not_start_does_not_undo_a_swap(lab: Lab, units: list[Path]) -> None:
    primary, recovery, mount_point = volume(lab)
    unit = service(units, mount_point)
    run("systemctl", "stop", unit)
    name = lab.protect(primary, recovery, "--unit", unit)
    run("systemctl", "start", unit)
    text = units[0].read_text()
    units[0].write_text(text + "ExecStartPre=/bin/false\n")
    run("systemctl", "daemon-reload")
    assert dmsnap("swap", name)["state"] == "trial"
    assert state(unit) == "failed"
    units[0].write_text(text)
    run("systemctl", "daemon-reload")


def test_units_of_a_swap_that_was_killed(lab: Lab, units: list[Path]) -> None:
    """Started by the next command, whatever it is."""
    primary, recovery, mount_point = volume(lab)
    unit = service(units, mount_point)
    run("systemctl", "stop", unit)
    name = lab.protect(primary, recovery, "--unit", unit)
    run("systemctl", "start", unit)
    steps = dmsnap("swap", name, "--dry-run")["steps"]
    stop = next(at for at, step in enumerate(steps) if step.startswith("stop "))
    for at in ((stop, "done"), (stop + 1, "done")):
        ended = forked("swap", name, at=at, send=(signal.SIGKILL,))
        assert ended.code == -signal.SIGKILL
        assert state(unit) == "inactive"
        dmsnap("sync", name)
        assert state(unit) == "active"
        assert f"/dev/mapper/{name} {mount_point}" in Path("/proc/mounts").read_text()
    run("systemctl", "stop", unit)


def test_units_that_are_none(lab: Lab) -> None:
    primary, recovery, _ = volume(lab)
    words = ("--name", lab.name(), "--recovery", recovery, "--store", lab.store())
    sentence = refused(
        ExitCode.NOT_FOUND, "protect", primary, *words, "--unit", "dmsnap-no-such.service"
    )
    assert "dmsnap-no-such.service" in sentence


def test_the_mount_unit_stays_active(lab: Lab, fstab: Path) -> None:
    """From Linux 6.5 on something is mounted there all the time: nobody stops what needs it."""
    primary, recovery, mount_point = volume(lab)
    name = lab.protect(primary, recovery)
    with fstab.open("a") as lines:
        lines.write(f"/dev/mapper/{name} {mount_point} ext4 noatime,noauto 0 0\n")
    run("systemctl", "daemon-reload")
    unit = systemd.mount_unit(str(mount_point))

    def since() -> str:
        """In which state it is, of which device, and since when."""
        wanted = "--property=ActiveState,SubState,What,ActiveEnterTimestampMonotonic"
        return run("systemctl", "show", wanted, unit)

    def shows_front() -> bool:
        return f"What=/dev/mapper/{name}\n" in since()

    wait_until("systemd has seen the mount", shows_front)
    before = since()
    dmsnap("swap", name, "--trial")
    dmsnap("swap", "revert", name)
    wait_until("systemd has seen it again", shows_front)
    assert "ActiveState=active\nSubState=mounted\n" in since()
    if kernel.version() >= (6, 5):
        assert since() == before
    stage = systemd.mount_unit(str(mount_point / placeholder.STAGE))

    def units() -> str:
        return run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=mount")

    wait_until("systemd has forgotten where it was mounted first", lambda: stage not in units())
    run("systemctl", "stop", unit)
    assert not os.path.ismount(mount_point)
