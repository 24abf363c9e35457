"""What schedules slept through while the host was off: each once, and one after the other."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from harness.computer import Computer, computer

MIB = 1 << 20
SIZE = 32 * MIB
VOLUMES = ("one", "two", "three")
STAMPS = "/var/lib/systemd/timers"
# The runs of all, one after the other, on a host that is shared.
CAUGHT_UP_SECONDS = 900


@pytest.fixture(scope="module")
def guest() -> Iterator[Computer]:
    """Three volumes, each under a policy of its own that has a run a day, in half a day's time."""
    disks = {"store": 512 * MIB}
    for name in VOLUMES:
        disks |= {name: SIZE, f"{name}-r": 2 * SIZE}
    with computer(disks) as made:
        made.boot()
        made.shell(f"""
            mkfs.ext4 -q -L STORE {made.device("store")}
            mkdir -p /store /etc/dmsnap
            echo "LABEL=STORE /store ext4 defaults 0 2" >>/etc/fstab
            mount /store
        """)
        daily = made.run("date", "-d", "+12 hours", "+*-*-* %H:00:00").strip()
        lines = ["jobs_at_once = 1"]
        for name in VOLUMES:
            made.dmsnap(
                "protect", made.device(name), "--name", name, "--recovery",
                made.device(f"{name}-r"), "--store", "/store",
            )  # fmt: skip
            lines += [
                f"[policy.{name}]", f'schedule = "{daily}"', 'spread = "0s"', 'audit = "none"',
                f"[subclient.{name}]", f'volumes = ["{name}"]', f'policy = "{name}"',
            ]  # fmt: skip
        text = "\n".join(lines)
        made.shell(f"cat >/etc/dmsnap/dmsnap.toml <<'END'\n{text}\nEND\n")
        made.dmsnap("config", "apply")
        made.shell("systemctl enable --now dmsnapd")
        yield made


def syncs(guest: Computer) -> list[dict[str, Any]]:
    found = guest.dmsnap("job", "list", "--count", "100")
    return [job for job in found if job["operation"] == "sync"]


def copying(job: dict[str, Any]) -> tuple[int, int]:
    return int(job["started_ns"]), int(job["finished_ns"])


def test_a_host_that_was_off_for_two_days(guest: Computer) -> None:
    """As systemd sees it by the stamps of its timers."""
    assert syncs(guest) == []
    guest.shell(f"touch -d '2 days ago' {STAMPS}/stamp-dmsnap-policy@*.timer; sync")
    guest.reboot()
    waiting = CAUGHT_UP.format(seconds=CAUGHT_UP_SECONDS, count=len(VOLUMES))
    guest.python(waiting, timeout=CAUGHT_UP_SECONDS + 120)
    found = syncs(guest)
    assert sorted(name for job in found for name in job["volumes"]) == sorted(VOLUMES)
    assert {job["state"] for job in found} == {"done"}
    times = sorted(map(copying, found))
    for (_, ended), (began, _) in pairwise(times):
        assert ended <= began, times
    # Started here: the lab boots to a target of its own, not to multi-user.target.
    guest.shell("systemctl --quiet is-enabled dmsnapd && systemctl start dmsnapd")
    # And not again at the next boot, nor is anybody late.
    guest.reboot()
    assert len(syncs(guest)) == len(VOLUMES)
    assert {each["punctuality"]["verdict"] for each in guest.dmsnap("status")} == {"in time"}


# Until all syncs were, and no run is under way. One process asks: they need the processor.
CAUGHT_UP = """
import subprocess, sys, time
from dmsnap.catalogue import jobs
from dmsnap.service.session import Session
activating = ["systemctl", "list-units", "--state=activating", "--plain", "--no-legend"]
ends = time.monotonic() + {seconds}
with Session.open() as session:
    while time.monotonic() < ends:
        found = [job.operation for job in jobs.recent(session.catalogue, 100)]
        busy = subprocess.check_output([*activating, "dmsnap-policy@*", "dmsnap-copy@*"])
        if found.count("sync") >= {count} and not busy:
            sys.exit()
        time.sleep(0.5)
subprocess.run(["systemctl", "list-timers", "--all", "dmsnap*"])
subprocess.run(["journalctl", "-b", "-u", "dmsnap*"])
sys.exit(1)
"""


def test_a_host_that_is_rebooted_during_a_run(guest: Computer) -> None:
    """In order: the job is undone before the machine goes down."""
    slow = 'bandwidth = "16KiB"'
    guest.shell(f"""
        dd if=/dev/urandom of=/dev/mapper/one bs=1M count=8 oflag=direct status=none
        sed -i '/^\\[policy.one\\]$/a {slow}' /etc/dmsnap/dmsnap.toml
        systemctl start --no-block dmsnap-policy@one.service
    """)
    label = ("inspect", "label", guest.device("one-r"))
    before = guest.dmsnap(*label)["point_uuid"]
    guest.python(AT_WORK.format(seconds=CAUGHT_UP_SECONDS), timeout=CAUGHT_UP_SECONDS + 60)
    (running,) = [job for job in syncs(guest) if job["state"] == "running"]
    guest.reboot()
    job = guest.dmsnap("job", "show", running["id"])
    assert job["state"] == "undone", job
    assert "cut off" not in job["outcome"]
    after = guest.dmsnap(*label)
    assert (after["state"], after["point_uuid"]) == ("consistent", before)
    (status,) = guest.dmsnap("status", "one")
    assert status["problems"] == []
    # Its point was a snapshot, and is gone: the next run takes another one.
    guest.shell(f"sed -i '/^{slow}$/d' /etc/dmsnap/dmsnap.toml")
    guest.dmsnap("run", "one")
    assert guest.dmsnap(*label)["point_uuid"] not in (before, None)
    guest.dmsnap("verify", "one", "--full")


# Until a sync copies: what it has begun is to be undone.
AT_WORK = """
import sys, time
from dmsnap.catalogue import jobs
from dmsnap.service.session import Session
ends = time.monotonic() + {seconds}
with Session.open() as session:
    while time.monotonic() < ends:
        running = [job for job in jobs.running(session.catalogue) if job.operation == "sync"]
        if any(job.last_begun in ("write-undo", "apply") for job in running):
            sys.exit()
        time.sleep(0.1)
sys.exit("no sync has come to copying")
"""
