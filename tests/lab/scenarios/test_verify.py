"""Verify: damage is found, with the probability that is stated, and nothing changes."""

import json
import os
from pathlib import Path

import pytest
from conftest import MIB, Lab, content_of, dmsnap, forked, rarely
from raw_volume import KIB, Protected, check_tidy, protected, write_direct

from dmsnap.errors import ExitCode

SIZE = 16 * MIB + 512
BLOCKS = 257


@pytest.fixture
def volume(lab: Lab) -> Protected:
    return protected(lab, SIZE)


def damage(device: str, offset: int) -> None:
    """One bit of one byte."""
    with open(device, "r+b", buffering=0) as file:
        wrong = bytes([os.pread(file.fileno(), 1, offset)[0] ^ 0x10])
        os.pwrite(file.fileno(), wrong, offset)
        os.fsync(file.fileno())


def test_a_good_replica_is_left_as_it_is(lab: Lab, volume: Protected) -> None:
    before = content_of(volume.recovery)
    full = dmsnap("verify", volume.name, "--full")
    assert full["bytes_dirty"] == 0
    assert full["audit"] == {
        "kind": "full",
        "bytes_compared": SIZE,
        "bytes_different": 0,
        "bytes_skipped": 0,
        "blocks": BLOCKS,
        "blocks_compared": BLOCKS,
        "detection_probability": 1.0,
    }
    sampled = dmsnap("verify", volume.name, "--sample", "4MiB")["audit"]
    assert (sampled["blocks"], sampled["blocks_compared"]) == (BLOCKS, 64)
    assert sampled["detection_probability"] == pytest.approx(64 / BLOCKS)
    assert sampled["bytes_compared"] > 63 * 64 * KIB
    assert content_of(volume.recovery) == before
    assert full["point"] == volume.label()["point_uuid"]
    assert len(dmsnap("point", "list", volume.name)) == 1
    check_tidy(volume, lab)


def test_what_was_written_since_is_not_compared(volume: Protected) -> None:
    written = [(MIB, 64 * KIB), (5 * MIB + 4096, MIB)]
    for offset, length in written:
        write_direct(volume.front, os.urandom(length), offset)
    verified = dmsnap("verify", volume.name, "--full")
    dirty = volume.blocks_of(written)
    assert verified["bytes_dirty"] == dirty
    assert verified["audit"]["bytes_compared"] == SIZE - dirty
    # Only where something was written is damage overlooked: the next sync writes there.
    damage(volume.recovery, MIB + 7)
    dmsnap("verify", volume.name, "--full")
    volume.sync("--audit", "full")
    volume.check_equal()


@pytest.mark.parametrize(
    "offset",
    [
        9 * MIB + 4097,
        rarely(0),
        rarely(SIZE - 1),
    ],
)
def test_a_wrong_byte_is_found(lab: Lab, volume: Protected, offset: int) -> None:
    write_direct(volume.front, os.urandom(64 * KIB), 3 * MIB)
    volume.sync()
    damage(volume.recovery, offset)
    before = content_of(volume.recovery)
    found = dmsnap("verify", volume.name, "--full", expected=ExitCode.AUDIT_FAILED)
    page = offset // 4096 * 4096
    assert found["fields"]["offset_bytes"] == page
    assert f"the first at {page}" in found["error"]
    assert content_of(volume.recovery) == before
    check_tidy(volume, lab)

    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert any(f"byte {page}" in problem for problem in status["problems"])
    points = dmsnap("point", "list", volume.name)
    assert len(points) == 2
    assert all(str(page) in point["invalid_reason"] for point in points)
    # Until it is put right nothing else can be said about it.
    dmsnap("verify", volume.name, "--full", expected=ExitCode.WRONG_STATE)

    synced = volume.sync("--audit", "full")
    assert synced["tracker"] == "compare"
    assert "audit failed" in synced["reason"]
    volume.check_equal()
    dmsnap("status", volume.name)
    newest = dmsnap("point", "list", volume.name)[-1]
    assert newest["invalid_reason"] is None
    dmsnap("verify", volume.name, "--full")


def test_samples_find_a_wrong_byte_in_the_end(volume: Protected) -> None:
    """Each with a probability of one half: twenty that miss it are one in a million."""
    damage(volume.recovery, 12 * MIB + 100)
    for _ in range(20):
        audit = dmsnap_audit(volume.name)
        if audit is None:
            return
        assert audit["detection_probability"] == pytest.approx(128 / BLOCKS)
    raise AssertionError("twenty samples of half of the blocks missed it")


def dmsnap_audit(name: str) -> dict[str, float] | None:
    """A sample's result; None when it found something."""
    ended = forked("verify", name, "--sample", 128 * 64 * KIB)
    if ended.code == ExitCode.AUDIT_FAILED:
        return None
    assert ended.code == 0, ended.stderr
    audit: dict[str, float] = json.loads(ended.stdout)["audit"]
    return audit


def test_a_sync_reads_again_what_it_wrote(volume: Protected) -> None:
    written = [(2 * MIB, 64 * KIB), (7 * MIB, 3 * 64 * KIB)]
    for offset, length in written:
        write_direct(volume.front, os.urandom(length), offset)
    audit = volume.sync("--audit", "sample")["audit"]
    assert audit["blocks"] == audit["blocks_compared"] == BLOCKS
    assert audit["detection_probability"] == 1.0


def test_tracking_that_cannot_be_trusted_is_refused(volume: Protected) -> None:
    write_direct(volume.primary, os.urandom(4 * KIB), 2 * MIB)
    refused = dmsnap("verify", volume.name, expected=ExitCode.WRONG_STATE)
    assert "past" in refused["error"]
    assert Path(f"/dev/mapper/{volume.name}").exists()
    volume.sync()
    dmsnap("verify", volume.name, "--full")
