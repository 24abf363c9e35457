"""Undo stores that rotted: found before the kernel, or a replica, is given what they hold."""

import os
import signal
from collections.abc import Callable

import pytest
from conftest import MIB, Lab, dmsnap, forked, sha256, suspended, world
from raw_volume import Protected, protected, write_direct

from dmsnap.errors import ExitCode
from dmsnap.recovery import apply

SIZE = 8 * MIB
CHUNK = 4096


def with_history(lab: Lab) -> tuple[Protected, list[str]]:
    """A volume with three points on its recovery volume, and what each holds, newest first."""
    volume = protected(lab, SIZE)
    contents = [sha256(volume.front)]
    for part in (1, 3):
        write_direct(volume.front, os.urandom(300 * 1024), part * MIB)
        volume.sync()
        contents.append(sha256(volume.front))
    return volume, contents[::-1]


def flip(device: str, offset: int) -> None:
    """One bit of what is on the medium."""
    with open(device, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, offset)[0] ^ 1
        os.pwrite(file.fileno(), bytes([byte]), offset)
        os.fsync(file.fileno())


def store_of(volume: Protected, steps_back: int) -> int:
    """Where the undo store begins that leads so many steps back."""
    return int(volume.label()["history"][steps_back - 1]["store_offset_bytes"])


def rotten_data(volume: Protected, steps_back: int) -> int:
    """A byte of a store's first data chunk."""
    return store_of(volume, steps_back) + 2 * CHUNK + 77


def rotten_pair(volume: Protected, steps_back: int) -> int:
    """The chunk of the origin that its first pair names: still one of the volume."""
    return store_of(volume, steps_back) + CHUNK + 1


@pytest.mark.parametrize("rotten", [rotten_data, rotten_pair])
def test_an_earlier_point_of_a_store_that_rotted_is_refused(
    lab: Lab, rotten: Callable[[Protected, int], int]
) -> None:
    volume, contents = with_history(lab)
    newest, middle, oldest = (
        point["id"] for point in reversed(dmsnap("point", "list", volume.name))
    )
    assert dmsnap("verify", volume.name, "--history")["history"] == {
        "stores": 2, "unsealed": 0, "bytes_read": sum(
            each["store_length_bytes"] for each in volume.label()["history"]
        ),
    }  # fmt: skip
    place = rotten(volume, 2)
    flip(volume.recovery, place)
    before = world(lab, volume.primary, volume.recovery)
    error = dmsnap("swap", volume.name, "--to", oldest, "--trial", expected=None)
    assert error["exit_code"] == ExitCode.CORRUPT
    assert "not what was written" in error["error"]
    assert oldest in error["error"]
    assert world(lab, volume.primary, volume.recovery) == before

    for point, content in ((middle, contents[1]), (newest, contents[0])):
        dmsnap("swap", volume.name, "--to", point, "--trial")
        assert sha256(volume.front) == content
        dmsnap("swap", "revert", volume.name)
    error = dmsnap("verify", volume.name, "--history", expected=ExitCode.AUDIT_FAILED)
    assert "not what was written" in error["error"]
    states = {each["id"]: each["invalid_reason"] for each in dmsnap("point", "list", volume.name)}
    assert states[oldest]
    assert not states[middle]
    assert not states[newest]
    assert suspended() == []

    # What is damaged goes, the rest goes on.
    dmsnap("point", "delete", oldest)
    assert dmsnap("verify", volume.name, "--history")["history"]["stores"] == 1
    volume.sync("--audit", "full")


def test_nothing_that_rotted_is_rolled_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, contents = with_history(lab)
    write_direct(volume.front, os.urandom(MIB), 5 * MIB)
    with monkeypatch.context() as patched:
        patched.setattr(apply, "write_new", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        assert forked("sync", volume.name).code == -signal.SIGKILL
    assert volume.label()["state"] == "applying"
    flip(volume.recovery, rotten_data(volume, 1))
    replica = volume.replica_sha256()
    error = dmsnap("swap", volume.name, "--trial", expected=None)
    assert error["exit_code"] == ExitCode.CORRUPT
    assert volume.replica_sha256() == replica
    assert volume.label()["state"] == "applying"
    flip(volume.recovery, rotten_data(volume, 1))
    dmsnap("swap", volume.name, "--trial")
    assert sha256(volume.front) == contents[0]


def test_a_store_of_before_there_were_seals(lab: Lab) -> None:
    volume, contents = with_history(lab)
    for steps_back in (1, 2):
        with open(volume.recovery, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes(512), store_of(volume, steps_back) + 512)
    assert dmsnap("verify", volume.name, "--history")["history"]["unsealed"] == 2
    oldest = dmsnap("point", "list", volume.name)[0]["id"]
    dmsnap("swap", volume.name, "--to", oldest, "--trial")
    assert sha256(volume.front) == contents[2]
