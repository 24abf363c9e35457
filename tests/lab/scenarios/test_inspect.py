"""Inspect and doctor on a real kernel."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, dmsnap, run

from dmsnap.errors import InterruptedBySignal
from dmsnap.host.dm import device as dm
from dmsnap.host.signals import interruptible
from dmsnap.service.inspection import era_front
from dmsnap.tracking import era

SIZE = 64 * MIB + 12 * 1024  # no multiple of the block size
BLOCK = 65536


def protected(lab: Lab) -> tuple[str, Path]:
    """A protected volume and its metadata device."""
    primary = lab.disk(SIZE)
    name = lab.protect(primary, lab.disk(128 * MIB))
    (line,) = dm.table(name)
    return name, dm.path_by_devno(line.target.metadata)  # type: ignore[attr-defined]


def write(name: str, offset: int, length: int) -> None:
    descriptor = os.open(f"/dev/mapper/{name}", os.O_WRONLY)
    try:
        os.pwrite(descriptor, os.urandom(length), offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.selection
def test_an_era_device_in_use(lab: Lab) -> None:
    name, metadata = protected(lab)
    since = dm.era_status(name).current_era + 1
    dm.suspend(name)
    dm.resume(name)
    write(name, 5 * BLOCK + 7, 1)
    write(name, 7 * BLOCK, 2 * BLOCK)
    write(name, SIZE - 1, 1)
    last = SIZE // BLOCK * BLOCK
    extents = [[5 * BLOCK, BLOCK], [7 * BLOCK, 2 * BLOCK], [last, SIZE - last]]
    for device in (f"/dev/mapper/{name}", metadata):
        found = dmsnap("inspect", "era", device, "--since", since)
        assert found["extents"] == extents
        assert found["metadata_snapshot"] > 0
        assert dm.era_status(name).metadata_snap is None
    image = run("losetup", "-nO", "BACK-FILE", metadata).strip()
    assert dmsnap("inspect", "era", image, "--since", since)["extents"] == extents


def test_a_metadata_snapshot_that_is_held_stays(lab: Lab) -> None:
    name, _ = protected(lab)
    since = dm.era_status(name).current_era
    write(name, 3 * BLOCK, 1)
    dm.message(name, "take_metadata_snap")
    held = dm.era_status(name).metadata_snap
    write(name, 9 * BLOCK, 1)
    found = dmsnap("inspect", "era", f"/dev/mapper/{name}", "--since", since)
    assert [3 * BLOCK, BLOCK] in found["extents"]
    assert [9 * BLOCK, BLOCK] not in found["extents"]
    assert found["metadata_snapshot"] == held == dm.era_status(name).metadata_snap
    dm.message(name, "drop_metadata_snap")


def test_a_cow_store_in_use(lab: Lab) -> None:
    name, _ = protected(lab)
    (point,) = dmsnap("point", "create", name)
    write(name, 4096, 8192)
    write(name, 40960, 1)
    (line,) = dm.table(point["places"][0]["device"].removeprefix("/dev/mapper/"))
    cow = dm.path_by_devno(line.target.cow)  # type: ignore[attr-defined]
    assert dmsnap("inspect", "store", cow) == {
        "chunk_size": 4096,
        "valid": True,
        "exceptions": 3,
        "extents": [[4096, 8192], [40960, 4096]],
    }


def test_a_suspended_era_device_is_not_asked(lab: Lab) -> None:
    name, metadata = protected(lab)
    dm.suspend(name)
    try:
        started = time.monotonic()
        error = dmsnap("inspect", "era", metadata, "--since", 1, expected=22)
        assert "is suspended" in error["error"]
        assert time.monotonic() - started < 60
    finally:
        dm.resume(name)


def test_the_doctor_finds_the_lab_well(lab: Lab) -> None:
    found = dmsnap("doctor")
    assert found["ok"] is True
    names = {check["name"] for check in found["checks"]}
    assert {"kernel", "dm target era", "io_uring", "udev", "catalogue", "store"} <= names


def test_without_root_files_are_read_and_devices_refused(lab: Lab) -> None:
    name, metadata = protected(lab)
    image = lab.directory / "label.img"
    recovery = dmsnap("status", name)[0]["replica"]["device"]
    run("dd", f"if={recovery}", f"of={image}", "bs=1M", "status=none")
    image.chmod(0o644)
    lab.directory.chmod(0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    shown = run(*nobody, "dmsnap", "inspect", "label", image, "--json")
    assert json.loads(shown)["name"] == name
    refused = subprocess.run(
        [*nobody, "dmsnap", "inspect", "era", str(metadata), "--since", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 3, refused.stderr
    assert "run it as root" in refused.stderr


def test_a_signal_leaves_no_metadata_snapshot(lab: Lab) -> None:
    """Whenever it comes: before, while or after one is held."""
    name, _ = protected(lab)
    command = ["dmsnap", "inspect", "era", f"/dev/mapper/{name}", "--since", "0"]
    started = time.monotonic()
    run(*command)
    whole = time.monotonic() - started
    for part in range(5, 10):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as it:
            time.sleep(whole * part / 10)
            it.send_signal(signal.SIGTERM)
        assert dm.era_status(name).metadata_snap is None


@pytest.mark.parametrize("holder", [era_front.metadata_snapshot, era.metadata_snapshot])
def test_a_signal_right_after_one_was_taken_leaves_none(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, holder: Any
) -> None:
    """Between taking it and looking at it nobody would know any more whose it is."""
    name, _ = protected(lab)
    message = dm.message

    def taken_and_signalled(device: str, text: str) -> str:
        answer = message(device, text)
        if text.startswith("take"):
            os.kill(os.getpid(), signal.SIGTERM)
        return answer

    monkeypatch.setattr(dm, "message", taken_and_signalled)
    with pytest.raises(InterruptedBySignal), interruptible(), holder(name):
        raise AssertionError("the signal was lost")
    assert dm.era_status(name).metadata_snap is None
