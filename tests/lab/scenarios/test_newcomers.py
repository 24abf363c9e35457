"""Volumes that joined the default sub-client, protected by the runs of its policy."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    MIB,
    Lab,
    administrator,
    catalogue_rows,
    configured,
    dm_devices,
    dmsnap,
    forked,
    run,
    sha256,
    world,
)
from test_jobs import step_number

SIZE = 32 * MIB
BY_PARTUUID = Path("/dev/disk/by-partuuid")
UDEV = Path("/run/udev/control")


@pytest.fixture(autouse=True)
def links() -> Iterator[None]:
    """The links that a scenario made in udev's place go with it."""
    yield
    for link in BY_PARTUUID.glob("*") if not UDEV.exists() else ():
        link.unlink()


@contextmanager
def protecting(lab: Lab, *pool: str, left_out: tuple[str, ...] = ()) -> Iterator[None]:
    """The default sub-client's policy has its runs protect what joins it, within the block."""
    with configured(
        "[store.here]", f'directory = "{lab.store()}"',
        "[pool.disks]", f"volumes = {json.dumps(pool)}",
        "[policy.all]", 'pool = "disks"', 'store = "here"', 'new_volumes = "protect"',
        "[subclient.default]", 'policy = "all"', f"left_out = {json.dumps(left_out)}",
    ):  # fmt: skip
        assert dmsnap("config", "check")["ok"]
        yield


class Partition:
    """A partition on a loop device, known by its UUID; the link is made where udev does not run."""

    def __init__(self, lab: Lab) -> None:
        image = lab.directory / f"parted-{len(lab.loops)}.img"
        with image.open("wb") as file:
            file.truncate(SIZE + 2 * MIB)
        table = b"label: gpt\n2048,65536,L\n"
        subprocess.run(["sfdisk", "-q", image], input=table, check=True)
        self.disk = run("losetup", "--find", "--show", "--partscan", image).strip()
        lab.loops.append(self.disk)
        self.device = f"{self.disk}p1"
        self.uuid = run("sfdisk", "--part-uuid", image, "1").strip().lower()
        self.link = BY_PARTUUID / self.uuid
        if not UDEV.exists():
            BY_PARTUUID.mkdir(parents=True, exist_ok=True)
            self.link.symlink_to(self.device)
        run("mkfs.ext4", "-q", "-L", "data set", self.device)


def volumes() -> dict[str, str]:
    """The protected volumes: their devices by name."""
    return dict(catalogue_rows("select name, backing from volume where removed_ns is null"))


def found(device: str) -> Any:
    return {each["device"]: each for each in dmsnap("discover", expected=None)["volumes"]}[device]


def told(device: str) -> str:
    return " ".join(
        each for each in dmsnap("discover", expected=None)["findings"] if device in each
    )


def unmounted_lv(lab: Lab) -> tuple[str, str]:
    """A logical volume with a file system, and its name in the lab."""
    group = lab.group(lab.disk(64 * MIB))
    administrator("lvcreate", "-qq", "-y", "-L", "32m", "-n", "data", group)
    device = f"/dev/mapper/{group}-data"
    run("mkfs.ext4", "-q", device)
    return device, f"{group}_data"


def test_what_nobody_uses_is_protected_at_the_second_look(lab: Lab, tmp_path: Path) -> None:
    partition, pool = Partition(lab), lab.disk(96 * MIB)
    content = sha256(partition.device)
    with protecting(lab, pool):
        before = world(lab, partition.device, pool)
        assert dmsnap("run", "all") == []
        seen = found(partition.device)
        assert (seen["joins_as"], seen["by_next_run"], seen["obstacle"]) == ("data_set", True, None)
        assert told(partition.device) == ""
        (step,) = dmsnap("run", "all", "--dry-run")["steps"]
        assert step.startswith(f"protect {partition.device} ")
        assert world(lab, partition.device, pool) == before
        lab.names.append("data_set")
        (made,) = dmsnap("run", "all")
        assert (made["volume"], made["error"]) == ("data_set", None)
        assert made["synced"] is not None
        assert volumes() == {"data_set": str(partition.link)}
        assert (sha256(partition.device), sha256(pool, SIZE)) == (content, content)

        # From now on it is one of the policy's: points, syncs, pruning.
        place = tmp_path / "place"
        place.mkdir()
        run("mount", "/dev/mapper/data_set", place)
        lab.mounts.append(place)
        (place / "file").write_bytes(os.urandom(MIB))
        run("sync", "-f", place)
        (done,) = dmsnap("run", "all")
        assert done["volume"] == "data_set"
        assert done["synced"] is not None
        run("umount", place)
        dmsnap("sync", "data_set", "--audit", "full")
        assert sha256(partition.device) == sha256(pool, SIZE) != content

        # Unprotected on purpose, it stays so.
        dmsnap("unprotect", "data_set")
        for _ in range(3):
            assert dmsnap("run", "all") == []
        assert volumes() == {}
        assert "was unprotected as data_set" in told(partition.device)
    with protecting(lab, pool, left_out=(str(partition.link),)):
        assert told(partition.device) == ""


def test_a_mounted_lv_is_protected_live_and_an_unmounted_one_as_usual(lab: Lab) -> None:
    mounted, name = unmounted_lv(lab)
    _, idle_name = unmounted_lv(lab)
    place = lab.directory / "place"
    place.mkdir()
    run("mount", mounted, place)
    lab.mounts.append(place)
    (place / "file").write_text("before")
    pool = [lab.disk(96 * MIB) for _ in range(2)]
    lab.names += [name, idle_name]
    with protecting(lab, *pool):
        assert dmsnap("run", "all") == []
        # One at a time.
        first = {each["volume"] for each in dmsnap("run", "all")}
        assert len(first) == 1
        assert first < {name, idle_name}
        assert {each["volume"] for each in dmsnap("run", "all")} == {name, idle_name}
        assert set(volumes()) == {name, idle_name}
        assert os.path.ismount(place)
        assert (place / "file").read_text() == "before"
        (row,) = catalogue_rows(f"select live from volume where name = '{name}'")  # noqa: S608
        assert mounted.removeprefix("/dev/mapper/") in row[0]
        (place / "file").write_text("after")
        done = dmsnap("run", "all")
        assert [each["error"] for each in done] == [None, None]
        dmsnap("unprotect", name)
        assert (place / "file").read_text() == "after"
        dmsnap("unprotect", idle_name)


def test_what_somebody_uses_and_what_is_not_certain_is_only_told_of(lab: Lab) -> None:
    loop, held, small = lab.disk(SIZE), Partition(lab), lab.disk(16 * MIB)
    mounted = Partition(lab).device
    places = [lab.mounted(loop), lab.mounted(mounted)]
    twins = [Partition(lab), Partition(lab)]
    run("dd", f"if={twins[0].device}", f"of={twins[1].device}", "bs=1M", "conv=fsync",
        "status=none")  # fmt: skip
    offered = lab.disk(96 * MIB)
    run("mkfs.ext4", "-q", offered)
    unmounted_loop = lab.disk(SIZE)
    run("mkfs.ext4", "-q", unmounted_loop)
    others = [held.device, *(each.device for each in twins)]
    devices = [*others, offered, unmounted_loop]  # what is mounted writes by itself
    with (
        subprocess.Popen(["sleep", "600"], stdin=Path(held.device).open("rb")) as user,
        protecting(lab, small, offered),
    ):
        try:
            before = world(lab, *devices)
            for _ in range(3):
                assert dmsnap("run", "all") == []
            assert world(lab, *devices) == before
            assert all(map(os.path.ismount, places))
            assert "mounted and no logical volume" in told(mounted)
            assert "is a loop device" in told(loop)
            assert "open in sleep" in told(held.device)
            assert all("carry the same file system UUID" in told(each.device) for each in twins)
            assert "the pool disks offers it" in told(offered)
            assert "is a loop device" in told(unmounted_loop)
        finally:
            user.kill()
    with protecting(lab, small):
        assert "the largest that the pool disks has free has 16 MiB" in told(held.device)
        for _ in range(3):
            assert dmsnap("run", "all") == []


def test_what_changes_between_looks_waits(lab: Lab) -> None:
    partition, pool = Partition(lab), lab.disk(96 * MIB)
    with protecting(lab, pool):
        dmsnap("run", "all")
        for label in ("one", "two"):
            run("mkfs.ext4", "-q", "-L", label, partition.device)
            assert dmsnap("run", "all") == []
            assert found(partition.device)["joins_as"] == label
        # Mounted when it was seen last, and unmounted for a moment only.
        place = lab.directory / "place"
        place.mkdir()
        run("mount", partition.device, place)
        assert dmsnap("run", "all") == []
        run("umount", place)
        assert dmsnap("run", "all") == []
        lab.names.append("two")
        (made,) = dmsnap("run", "all")
        assert made["volume"] == "two"
        dmsnap("unprotect", "two")


def test_a_run_that_is_killed_leaves_nothing_and_the_next_one_protects_it(lab: Lab) -> None:
    partition, pool = Partition(lab), lab.disk(96 * MIB)
    content = sha256(partition.device)
    with protecting(lab, pool):
        dmsnap("run", "all")
        lab.names.append("data_set")
        at = step_number("run", "all", name="copy")
        assert volumes() == {}
        assert forked("run", "all", at=(at, "begun"), send=(signal.SIGKILL,)).code == -9
        assert volumes() == {"data_set": str(partition.link)}
        # It is given back, was seen before, and nobody took it out on purpose.
        (made,) = dmsnap("run", "all")
        assert (made["volume"], made["error"]) == ("data_set", None)
        assert made["synced"] is not None
        assert sha256(pool, SIZE) == content
        dmsnap("unprotect", "data_set", "--forget")
        assert "was unprotected" in told(partition.device)
    assert dm_devices() == []
