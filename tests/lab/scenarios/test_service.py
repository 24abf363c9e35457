"""dmsnapd under systemd: started, stopped and killed, also in the middle of jobs."""

import hashlib
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    MIB,
    Lab,
    configured,
    dm_devices,
    dmsnap,
    dmsnap_process,
    forked,
    is_mounted,
    run,
    sha256,
    suspended,
)
from test_jobs import Bench, job, killed, last_job, left_suspended, wait_until_at
from test_protect_live import Bench as LiveBench

pytestmark = pytest.mark.systemd

UNIT = "dmsnapd.service"
TIMERS = Path("/etc/systemd/system")
SIZE = 32 * MIB
# Of what nothing announces the service hears within a minute.
WAIT_SECONDS = 240
# What a bench writes is copied in a quarter of a minute, in two steps.
SLOWLY = "256KiB"


@pytest.fixture
def service() -> Iterator[None]:
    """The unit, not running yet; stopped at the end."""
    run("systemctl", "daemon-reload")
    yield
    run("systemctl", "stop", UNIT)
    run("systemctl", "reset-failed", UNIT, expected=None)


def shown(name: str, unit: str = UNIT) -> str:
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def journal(*fields: str, unit: str = UNIT) -> list[str]:
    """The messages of a unit's processes, those with some fields."""
    run("journalctl", "--sync", expected=None)
    text = run("journalctl", "--quiet", "--output=cat", f"--unit={unit}", *fields, expected=None)
    return text.splitlines()


def eventually(is_so: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, f"not within {seconds} s: {what}\n" + "\n".join(journal())
        time.sleep(0.5)


def test_started_and_stopped(lab: Lab, service: None) -> None:
    bench = Bench(lab)
    assert exposure_level() <= 3.0
    run("systemctl", "start", UNIT)
    assert (shown("ActiveState"), shown("Type")) == ("active", "notify")
    assert shown("WatchdogUSec") == "1min"
    assert bench.name in shown("StatusText")
    run("systemctl", "stop", UNIT)
    assert (shown("ActiveState"), shown("Result")) == ("inactive", "success")
    assert any("SIGTERM: ending" in line for line in journal())
    assert "ended" in journal()
    dmsnap("sync", bench.name)


def exposure_level() -> float:
    """How much of the host the unit leaves open to itself, as systemd reckons."""
    report = run("systemd-analyze", "--no-pager", "security", UNIT)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", report)
    assert found, report
    return float(found[1])


@pytest.fixture
def short_watchdog(service: None) -> Iterator[None]:
    """Four seconds in place of a minute, and little time for last words."""
    path = Path(f"/run/systemd/system/{UNIT}.d/lab.conf")
    path.parent.mkdir(parents=True)
    limits = "WatchdogSec=4\nTimeoutAbortSec=1\nRestartSec=0\n"
    # A busy guest may miss a sign more than once.
    path.write_text(f"[Unit]\nStartLimitIntervalSec=0\n[Service]\n{limits}")
    run("systemctl", "daemon-reload")
    yield
    path.unlink()
    path.parent.rmdir()


@pytest.mark.usefixtures("short_watchdog")
def test_one_that_hangs_is_started_anew() -> None:
    """While it lives it says so by itself, twice in the time; stopped by SIGSTOP it does not."""
    run("systemctl", "start", UNIT)
    signs: set[str] = set()

    def has_said_so_twice() -> bool:
        signs.add(shown("WatchdogTimestampMonotonic"))
        return len(signs) > 2

    eventually(has_said_so_twice, "signs of life")
    before = signalled(signal.SIGSTOP)
    eventually(lambda: shown("MainPID") not in (before, "0"), "started anew")
    eventually(lambda: shown("ActiveState") == "active", "active again")
    assert int(shown("NRestarts")) >= 1
    assert any("Watchdog timeout" in line for line in journal()), "\n".join(journal())


def signalled(number: signal.Signals) -> str:
    """Send the service's process a signal; its number. 0 would be everybody of the test's group."""
    eventually(lambda: shown("MainPID") != "0", "it runs")
    process = shown("MainPID")
    assert int(process)
    os.kill(int(process), number)
    return process


def test_what_was_cut_off_is_taken_back_at_its_start(lab: Lab, service: None) -> None:
    """It was a swap that had unmounted the volume: mounted again for everybody to see."""
    bench = Bench(lab)
    cut_off = killed("swap", bench.name, at="load-front")
    assert not is_mounted(bench.mount_point)
    run("systemctl", "start", UNIT)
    assert bench.note == "first"
    told = journal(unit="dmsnap-resume.service")
    assert job(cut_off["id"])["state"] == "undone", told
    assert any("swap of" in line and "undone now" in line for line in told)


def test_restarted_and_killed_while_a_job_runs(lab: Lab, service: None) -> None:
    """Killed, it is started again by systemd. Its start leaves a job of another command alone."""
    bench = Bench(lab)
    run("systemctl", "start", UNIT)
    bench.write("second")
    with dmsnap_process("sync", bench.name, "--bandwidth", SLOWLY) as process:
        wait_until_at("write-undo", "apply")
        run("systemctl", "restart", UNIT)
        assert shown("ActiveState") == "active"
        before = signalled(signal.SIGKILL)
        eventually(lambda: shown("MainPID") not in (before, "0"), "started again")
        process.communicate(timeout=600)
    assert process.returncode == 0
    assert last_job()["state"] == "done"
    eventually(lambda: shown("ActiveState") == "active", "active again")
    run("umount", bench.mount_point)
    dmsnap("sync", bench.name)
    assert sha256(bench.recovery, SIZE) == sha256(f"/dev/mapper/{bench.name}")


def test_job_and_service_killed(lab: Lab, service: None) -> None:
    """Both die at once; the service's new start takes the job back."""
    bench = Bench(lab)
    run("systemctl", "start", UNIT)
    bench.write("second")
    ended = forked("sync", bench.name, at=(5, "begun"), send=(signal.SIGKILL,))
    assert ended.code == -signal.SIGKILL
    signalled(signal.SIGKILL)
    eventually(lambda: last_job()["state"] in ("undone", "done"), "the job is concluded")
    eventually(lambda: shown("ActiveState") == "active", "active again")
    dmsnap("sync", bench.name)


def resume_unit(name: str) -> str:
    return f"dmsnap-resume@{run('systemd-escape', name).strip()}.service"


def test_what_a_job_left_suspended_that_was_undone_goes_on(lab: Lab, service: None) -> None:
    """No job is cut off there; but its window may have left a device to a watchdog that died."""
    bench = Bench(lab)
    run("systemctl", "start", UNIT)
    left_suspended(bench.name)
    try:
        eventually(lambda: suspended() == [], "it goes on")
    finally:
        run("dmsetup", "resume", bench.name)
    assert bench.note == "first"
    assert any(bench.name in line and "left suspended" in line for line in journal())
    eventually(lambda: shown("ActiveState", resume_unit(bench.name)) == "inactive", "it ends")


def test_a_conclusion_that_hangs_leaves_no_other_volume_suspended(lab: Lab, service: None) -> None:
    """Of two that were left suspended, one after the other: the first one's waits for a disk."""
    run("dmsetup", "create", "held", "--table",
        f"0 {2 * SIZE // 512} linear {lab.disk(2 * SIZE)} 0")  # fmt: skip
    hanging, bench = lab.protect(lab.disk(SIZE), "/dev/mapper/held"), Bench(lab)
    run("systemctl", "start", UNIT)
    write(hanging, 2)
    first = killed("sync", hanging, at="apply")
    run("dmsetup", "suspend", "held")
    run("dmsetup", "suspend", hanging)

    def is_being_concluded() -> bool:
        units = ("dmsnap-resume.service", resume_unit(hanging))
        return hanging not in suspended() and "activating" in [
            shown("ActiveState", unit) for unit in units
        ]

    try:
        eventually(is_being_concluded, "the first is being concluded")
        second = killed("sync", bench.name, at="apply")
        run("dmsetup", "suspend", bench.name)
        eventually(lambda: bench.name not in suspended(), "the second goes on")
        eventually(lambda: job(second["id"])["state"] == "undone", "it is concluded")
        assert is_being_concluded(), "nothing hung"
    finally:
        run("dmsetup", "resume", bench.name)
        run("dmsetup", "resume", "held")
    assert bench.note == "first"
    eventually(lambda: job(first["id"])["state"] == "undone", "the first is concluded")
    eventually(lambda: shown("ActiveState", resume_unit(hanging)) == "inactive", "it ends")
    run("systemctl", "stop", UNIT)
    dmsnap("unprotect", hanging, "--forget")
    run("dmsetup", "remove", "--retry", "held")


@pytest.fixture
def policies() -> Iterator[Callable[[str], None]]:
    """Writes the configuration and applies it; nothing is left of it, nor of its timers."""
    path = Path("/etc/dmsnap/dmsnap.toml")
    path.parent.mkdir(exist_ok=True)

    def apply(text: str) -> None:
        path.write_text(text)
        dmsnap("config", "apply")

    yield apply
    apply("")
    path.unlink()
    assert not list(TIMERS.glob("dmsnap-policy@*.timer"))


def test_a_timer_fires(lab: Lab, policies: Callable[[str], None]) -> None:
    """Two volumes, one of them in two sub-clients; then the policy goes, and its timer with it."""
    one, two = Bench(lab), Bench(lab)
    text = (
        '[policy.often]\nschedule = "*:*:0/10"\nspread = "0s"\naudit = "none"\n'
        f'[subclient.a]\nvolumes = ["{one.name}"]\npolicy = "often"\n'
        f'[subclient.b]\nvolumes = ["{one.name}", "{two.name}"]\npolicy = "often"\n'
    )
    Path("/etc/dmsnap/dmsnap.toml").write_text(text)
    (change,) = dmsnap("config", "apply", "--dry-run")
    assert (change["unit"], change["action"]) == ("dmsnap-policy@often.timer", "add")
    assert not (TIMERS / change["unit"]).exists()
    policies(text)
    assert shown("ActiveState", change["unit"]) == "active"
    assert run("systemctl", "is-enabled", change["unit"]).strip() == "enabled"
    eventually(points_and_copies, "points and copies by the timer")
    policies(text.replace("often", "other").replace("*:*:0/10", "yearly"))
    (left,) = TIMERS.glob("dmsnap-policy@*.timer")
    assert left.name == "dmsnap-policy@other.timer"
    assert shown("LoadState", "dmsnap-policy@often.timer") == "not-found"
    for unit in ("dmsnap-policy@often.service", "dmsnap-copy@often.service"):
        eventually(
            lambda unit=unit: shown("ActiveState", unit) in ("inactive", "failed"),  # type: ignore[misc]
            "the last run ends",
        )
    for bench in (one, two):
        assert live_points(bench.name)
    # What is due only in other hours has a timer in memory.
    copied = (
        text.replace('"*:*:0/10"', '"yearly"') + f'[policy.often.copy]\nhours = "{far_hours()}"\n'
    )
    policies(copied)
    first, second = dmsnap("run", "often")
    assert first["point"]
    assert first["synced"] is None
    assert first["copy_due_ns"] == second["copy_due_ns"] > time.time_ns()
    assert shown("ActiveState", "dmsnap-copy@often.timer") == "active"
    dmsnap("run", "often", "--copy")
    assert shown("ActiveState", "dmsnap-copy@often.timer") == "active"
    run("systemctl", "stop", "dmsnap-copy@often.timer")
    # What no rule keeps goes behind each run.
    assert len(live_points(one.name)) > 1
    policies(f"{copied}[policy.often.primary]\nminimum = 1\n")
    for volume in dmsnap("run", "often"):
        assert volume["pruned"]
        assert live_points(volume["volume"]) == [volume["point"]]


def test_points_go_on_while_a_copy_lasts(lab: Lab, policies: Callable[[str], None]) -> None:
    """Of the other volume of the sub-client: that one is held by the copy of its own."""
    benches = {bench.name: bench for bench in (Bench(lab), Bench(lab))}
    for bench in benches.values():
        bench.write("much")
    policies(
        'lock_wait_seconds = 1\n[policy.slow]\nschedule = "*:*:0/5"\nspread = "0s"\n'
        'audit = "none"\nbandwidth = "4KiB"\nprimary = { minimum = 2 }\n'
        f'[subclient.a]\nvolumes = {list(benches)!r}\npolicy = "slow"\n'
    )
    eventually(lambda: [each for each in copies() if each["at"] in COPYING], "a copy")
    (copy,) = copies()
    (other,) = set(benches) - set(copy["volumes"])
    before = live_points(other)
    eventually(lambda: len(set(live_points(other)) - set(before)) >= 3, "points go on")
    assert [each["id"] for each in copies()] == [copy["id"]]
    assert len(live_points(other)) <= 4
    policies("")
    for unit in ("dmsnap-policy@slow.service", "dmsnap-copy@slow.service"):
        run("systemctl", "stop", unit)
    assert job(copy["id"])["state"] == "undone"
    assert dmsnap("status", other)[0]["problems"] == []


COPYING = ("write-undo", "apply")


def copies() -> list[dict[str, Any]]:
    """Syncs that are under way."""
    found = dmsnap("job", "list", "--count", "100")
    return [job(each["id"]) for each in found
            if (each["operation"], each["state"]) == ("sync", "running")]  # fmt: skip


def live_points(name: str) -> list[str]:
    """The points of a volume that live on its primary."""
    return [
        point["id"]
        for point in dmsnap("point", "list", name)
        if any(place["kind"] == "live" for place in point["places"])
    ]


def points_and_copies() -> bool:
    """Asked at leisure: the guest has one processor, and the timer's runs are to get on."""
    time.sleep(2)
    operations = [each["operation"] for each in done_jobs()]
    return "point create" in operations and operations.count("sync") >= 2


def done_jobs() -> list[dict[str, Any]]:
    return [each for each in dmsnap("job", "list") if each["state"] == "done"]


def far_hours() -> str:
    """An hour that begins in three hours."""
    begin = (datetime.now().astimezone() + timedelta(hours=3)).hour
    return f"{begin:02}:00-{(begin + 1) % 24:02}:00"


def live_point(bench_name: str) -> dict[str, Any]:
    """The first live point as status has it."""
    (status,) = dmsnap("status", bench_name, expected=None)
    return dict(status["live_points"][0])


def write(name: str, mib: int, *, seek: int = 0, source: str | Path = "/dev/urandom") -> None:
    """Overwrite the volume as fast as it goes; who is to make room for that comes first."""
    run(
        "chrt", "--idle", "0",
        "dd", f"if={source}", f"of=/dev/mapper/{name}", "bs=1M", f"count={mib}", f"seek={seek}",
        "iflag=fullblock", "oflag=direct", "conv=notrunc",
    )  # fmt: skip


@pytest.mark.parametrize("store", ["directory", "group"])
def test_a_store_is_extended_in_time(lab: Lab, service: None, store: str) -> None:
    """Filled at full speed, from a third of the volume to all of it, as soon as it is there.

    By a small one before it is seen that the service is at work.
    """
    size = 384 * MIB
    primary, recovery = lab.disk(size), lab.disk(2 * size)
    place = lab.group(lab.disk(2 * size)) if store == "group" else lab.store()
    name = lab.protect(primary, recovery, "--store", place)
    run("systemctl", "start", UNIT)
    (small,) = dmsnap("point", "create", name, "--cow-percent", "7")
    room = live_point(name)["total_bytes"]
    write(name, 20)
    eventually(lambda: live_point(name)["total_bytes"] > room, "extended")
    dmsnap("point", "delete", small["id"])
    before = sha256(f"/dev/mapper/{name}")
    (point,) = dmsnap("point", "create", name, "--cow-percent", "33")
    assert live_point(name)["total_bytes"] < size // 2
    write(name, 360)
    found = live_point(name)
    assert found["state"] == "OK", "\n".join(journal())
    assert found["total_bytes"] > 360 * MIB
    assert sha256(point["places"][0]["device"]) == before
    assert journal(f"DMSNAP_POINT={point['id']}")


def test_a_point_that_cannot_be_kept_is_ended(lab: Lab, service: None) -> None:
    """The store has no more: the point goes before it is full, or at full speed with it.

    Whoever writes hears nothing of that, and the volume is what was written.
    """
    size = 96 * MIB
    image = lab.directory / "known"
    image.write_bytes(os.urandom(size))
    known = hashlib.sha256(image.read_bytes()).hexdigest()
    primary, recovery = lab.disk(size), lab.disk(3 * size)
    name = lab.protect(primary, recovery)
    with configured(f"cow_limit_bytes = {24 * MIB}"):
        run("systemctl", "start", UNIT)
        (point,) = dmsnap("point", "create", name, "--cow-percent", "25")
        write(name, 19)
        eventually(lambda: any("cannot be given more room" in line for line in journal()), "told")
        write(name, 4, seek=19)
        eventually(lambda: not listed(name, point), "the point is deleted")
        assert not [each for each in dm_devices() if "-point-" in each]
        (point,) = dmsnap("point", "create", name, "--cow-percent", "25")
        write(name, size // MIB, source=image)
        assert all(found["invalid_reason"] for found in listed(name, point))
        assert sha256(f"/dev/mapper/{name}") == known
        eventually(lambda: not listed(name, point), "the point is deleted")
        assert suspended() == []
    dmsnap("sync", name)
    assert sha256(recovery, size) == known


def listed(name: str, point: dict[str, Any]) -> list[dict[str, Any]]:
    """A point as the list has it, if it is there still."""
    return [each for each in dmsnap("point", "list", name) if each["id"] == point["id"]]


def test_a_lost_layer_is_told(lab: Lab, service: None) -> None:
    """A table that is not ours, and then ours again."""
    bench = Bench(lab)
    run("umount", bench.mount_point)
    run("systemctl", "start", UNIT)
    table = run("dmsetup", "table", bench.name)
    run("dmsetup", "reload", bench.name, "--table", f"0 {SIZE // 512} linear {bench.primary} 0")
    run("dmsetup", "suspend", bench.name)
    run("dmsetup", "resume", bench.name)
    eventually(
        lambda: any(bench.name in line for line in journal(f"DMSNAP_VOLUME={bench.name}")), "told"
    )
    run("dmsetup", "reload", bench.name, "--table", table)
    run("dmsetup", "suspend", bench.name)
    run("dmsetup", "resume", bench.name)
    eventually(
        lambda: any("all is well again" in line for line in journal(f"DMSNAP_VOLUME={bench.name}")),
        "put right",
    )


def test_dropped_layers_are_told(lab: Lab, service: None) -> None:
    """Of a volume that is live: LVM puts its own table back, and the kernel announces that."""
    bench = LiveBench.made(lab)
    bench.protect()
    run("systemctl", "start", UNIT)
    bench.refresh()
    eventually(
        lambda: any("passes the layers by" in line for line in told(bench.name)), "it is told"
    )
    bench.sync()
    eventually(lambda: any("all is well again" in line for line in told(bench.name)), "well")
    assert bench.is_layered()


def told(name: str) -> list[str]:
    """What the journal has of a volume."""
    return journal(f"DMSNAP_VOLUME={name}")


def test_metrics_are_written(lab: Lab, service: None) -> None:
    """By the service and by the command the same, but for the moment."""
    bench = Bench(lab)
    path = lab.directory / "metrics" / "dmsnap.prom"
    with configured(f'metrics_file = "{path}"'):
        run("systemctl", "restart", UNIT)
        eventually(path.exists, "metrics")
        eventually(
            lambda: f'dmsnap_newest_point_age_seconds{{volume="{bench.name}"}}' in path.read_text(),
            "the volume is among them",
        )
        written = path.read_text()
        run("systemctl", "stop", UNIT)
    printed = dmsnap("metrics")["text"]
    names = [{line.partition(" ")[0] for line in each.splitlines()} for each in (written, printed)]
    assert names[0] == names[1]


def test_metrics_are_served_on_a_port(lab: Lab, service: None) -> None:
    """On loopback; what the hardened unit may do suffices for that."""
    bench = Bench(lab)
    with configured("metrics_port = 9187"):
        run("systemctl", "restart", UNIT)
        eventually(lambda: f'dmsnap_problems{{volume="{bench.name}"}} 0' in served(), "served")
        assert "127.0.0.1:9187" in run("ss", "-ltn")
        run("systemctl", "stop", UNIT)
    assert served() == ""


def served() -> str:
    try:
        with urllib.request.urlopen("http://127.0.0.1:9187/metrics", timeout=10) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def test_an_age_is_told_that_no_policy_promised(
    lab: Lab, service: None, policies: Callable[[str], None]
) -> None:
    """Its timer is stopped: two runs go by."""
    bench = Bench(lab)
    policies(
        '[policy.often]\nschedule = "*:*:0/20"\nspread = "0s"\naudit = "none"\n'
        f'[subclient.a]\nvolumes = ["{bench.name}"]\npolicy = "often"\n'
    )
    run("systemctl", "stop", "dmsnap-policy@often.timer")
    eventually(lambda: late(bench.name), "late")
    (status,) = dmsnap("status", bench.name, expected=24)
    assert status["punctuality"]["verdict"] == "late"
    assert "dmsnap run often takes one now" in status["problems"][-1]
    run("systemctl", "start", UNIT)
    eventually(lambda: any("late: runs of often" in line for line in journal()), "told")
    dmsnap("run", "often")
    (status,) = dmsnap("status", bench.name)
    assert status["punctuality"]["verdict"] in ("in time", "due")


def late(name: str) -> bool:
    (status,) = dmsnap("status", name, expected=None)
    return str(status["punctuality"]["verdict"]) == "late"


def test_copies_have_the_priority_of_their_policy(
    lab: Lab, policies: Callable[[str], None]
) -> None:
    """Seen by ionice(1) while it copies; the window before it has the ordinary one."""
    bench = Bench(lab)
    for key, seen in (
        ('io_class = "idle"', "idle"),
        ('io_class = "best-effort"\nio_level = 7', "best-effort: prio 7"),
    ):
        policies(
            f'[policy.slow]\nschedule = "yearly"\naudit = "none"\nbandwidth = "32KiB"\n{key}\n'
            f'[subclient.a]\nvolumes = ["{bench.name}"]\npolicy = "slow"\n'
        )
        bench.write(key)
        with dmsnap_process("run", "slow") as process:
            wait_until_at("write-undo", "apply")
            eventually(
                lambda seen=seen, pid=process.pid: (  # type: ignore[misc]
                    run("ionice", "-p", pid).strip() == seen
                ),
                seen,
            )
            process.terminate()
            process.communicate(timeout=600)
        assert process.returncode == 128 + signal.SIGTERM
        assert (last_job()["operation"], last_job()["state"]) == ("sync", "undone")


def test_the_oldest_points_that_are_due_are_copied(
    lab: Lab, policies: Callable[[str], None]
) -> None:
    bench = Bench(lab)

    def declare(*keys: str) -> None:
        lines = ["[policy.passing]", 'schedule = "yearly"', *keys]
        lines += ["[subclient.a]", f'volumes = ["{bench.name}"]', 'policy = "passing"']
        policies("\n".join(lines) + "\n")

    declare("copy = { let_pass = 2 }")
    contents: list[str] = []
    for number in range(4):
        bench.write(str(number))
        (done,) = dmsnap("run", "passing")
        assert (done["synced"] is not None) is (number >= 2)
        contents.append(sha256(live_device(bench.name, done["point"])))
        if number >= 2:
            assert sha256(bench.recovery, SIZE) == contents[number - 2]
    # What waited for long is copied at once, each point for itself.
    declare('audit = "full"')
    before = dmsnap("inspect", "label", bench.recovery)["history"]
    dmsnap("run", "passing", "--copy")
    label = dmsnap("inspect", "label", bench.recovery)
    assert len(label["history"]) == len(before) + 2
    assert sha256(bench.recovery, SIZE) == contents[-1]
    copied = last_copy()
    assert copied["arguments"]["audit"] == "full"
    assert ("audit", "done") in [(step["name"], step["state"]) for step in copied["steps"]]
    # What is due later a timer in memory begins; a busy guest may need longer than that at first.
    for delay in ("4s", "60s"):
        declare(f'copy = {{ delay = "{delay}" }}')
        bench.write(delay)
        (done,) = dmsnap("run", "passing")
        if done["synced"] is None:
            break
    assert done["synced"] is None
    eventually(lambda: last_copy()["arguments"]["source"] == done["point"], "it is begun")
    eventually(lambda: shown("ActiveState", "dmsnap-copy@passing.service") == "inactive", "it ends")
    copied = last_copy()
    assert copied["state"] == "done"
    assert copied["started_ns"] >= done["copy_due_ns"]
    assert sha256(bench.recovery, SIZE) == sha256(live_device(bench.name, done["point"]))
    assert shown("ActiveState", "dmsnap-copy@passing.timer") == "inactive"


def last_copy() -> dict[str, Any]:
    """The last sync, with its steps."""
    newest = next(each for each in dmsnap("job", "list") if each["operation"] == "sync")
    return job(newest["id"])


def live_device(name: str, point: str) -> str:
    (found,) = [each for each in dmsnap("point", "list", name) if each["id"] == point]
    return str(found["places"][0]["device"])


def test_the_overlay_of_a_trial_is_extended_in_time(lab: Lab, service: None) -> None:
    """Filled at full speed, to all of the volume; nothing that was written is lost.

    But for a moment at the first extension, by which it is seen that the service knows the overlay.
    """
    size = 512 * MIB
    primary, recovery = lab.disk(size), lab.disk(2 * size)
    name = lab.protect(primary, recovery)
    run("systemctl", "start", UNIT)
    dmsnap("swap", name, "--trial")
    room = overlay(name)["total_bytes"]
    assert room < 200 * MIB
    write(name, 80)
    eventually(lambda: overlay(name)["total_bytes"] > room, "extended")
    write(name, 400, seek=80)
    found = overlay(name)
    assert found["state"] == "OK", "\n".join(journal())
    assert found["total_bytes"] > 480 * MIB
    written = sha256(f"/dev/mapper/{name}")
    assert any("the store of the trial" in line for line in journal())
    run("systemctl", "stop", UNIT)
    dmsnap("swap", "commit", name)
    assert sha256(f"/dev/mapper/{name}") == sha256(recovery, size) == written


def overlay(name: str) -> dict[str, Any]:
    """The overlay of a trial as status has it."""
    (status,) = dmsnap("status", name, expected=None)
    return dict(status["overlay"])
