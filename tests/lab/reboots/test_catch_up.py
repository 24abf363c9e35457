"""What schedules slept through while the host was off: each once, and one after the other."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from harness.computer import Computer, computer

MIB = 1 << 20
SIZE = 64 * MIB
VOLUMES = ("one", "two", "three", "four")
STAMPS = "/var/lib/systemd/timers"
# The runs of all, one after the other, on a host that is shared.
CAUGHT_UP_SECONDS = 900


@pytest.fixture(scope="module")
def guest() -> Iterator[Computer]:
    """Four volumes, each under a policy of its own that has a run a day, in half a day's time."""
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
    guest.shell(
        f"""
        while [ $SECONDS -lt {CAUGHT_UP_SECONDS} ]; do
            n=$(dmsnap job list --count 100 --json | grep -c '"operation": "sync"' || true)
            busy=$(systemctl list-units --state=activating --plain --no-legend 'dmsnap-policy@*' |
                wc -l)
            [ "$n" -ge {len(VOLUMES)} ] && [ "$busy" = 0 ] && exit 0
            sleep 1
        done
        systemctl list-timers --all 'dmsnap*'; journalctl -b -u 'dmsnap*'; exit 1
        """,
        timeout=CAUGHT_UP_SECONDS + 120,
    )
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
