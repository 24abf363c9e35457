"""Which tracker is trusted."""

from dataclasses import replace
from uuid import uuid4

from dmsnap.catalogue.model import Point, Volume, VolumeState
from dmsnap.snapshot import stack
from dmsnap.tracking.choice import Tracker, choose

MODERN = (6, 1)

VOLUME = Volume(
    id=uuid4(), name="srv", state=VolumeState.PROTECTED, backing="/dev/sdb", recovery="/dev/sdc",
    recovery_id=uuid4(), store="/var/lib/dmsnap/store", size_bytes=1 << 30, block_bytes=65536,
    chunk_bytes=4096, fs_type="ext4", fs_uuid="", mounts=(), generation=1, tracking_id="boot:1",
    created_ns=1,
)  # fmt: skip
POINT = Point(
    id=uuid4(), volume_id=VOLUME.id, created_ns=2, keep=False, temporary=False, era_since=7,
    tracking_id="boot:1", window_seconds=0.001,
)  # fmt: skip


def test_the_era_is_used_when_nothing_speaks_against_it() -> None:
    choice = choose(VOLUME, POINT, 9, MODERN)
    assert (choice.tracker, choice.reason, choice.since) == (Tracker.ERA, None, 7)


def test_the_first_era_after_the_point_is_enough() -> None:
    assert choose(VOLUME, POINT, 7, MODERN).tracker is Tracker.ERA


def test_every_break_in_tracking_forces_a_comparison_with_its_reason() -> None:
    breaks = {
        "before Linux 5.12": choose(VOLUME, POINT, 9, (5, 11)),
        "does not know": choose(VOLUME, None, 9, MODERN),
        "built anew": choose(replace(VOLUME, tracking_id="boot:2"), POINT, 9, MODERN),
        "was replaced": choose(VOLUME, POINT, 6, MODERN),
        "do not say that the point": choose(VOLUME, POINT, 9, MODERN, copied=POINT),
        "not known whether anything": choose(VOLUME, POINT, 9, MODERN, bytes_beside=None),
        "8 KiB were written to": choose(VOLUME, POINT, 9, MODERN, bytes_beside=8192),
    }
    for words, choice in breaks.items():
        assert choice.tracker is Tracker.COMPARE
        assert choice.reason is not None
        assert words in choice.reason


def test_the_generation_before_the_first_has_an_origin_of_its_own() -> None:
    """Asked for by what clears up after a failback: it must not find the one in use."""
    assert stack.origin(VOLUME) == stack.origin(VOLUME, 1)
    assert stack.origin(VOLUME, 0) != stack.origin(VOLUME)


def test_a_point_of_before_is_copied_by_the_era_when_that_says_it_is_later() -> None:
    """Else what changed between it and the replica's point would not be among what was written."""
    later = replace(POINT, id=uuid4(), era_since=8, created_ns=1)
    assert choose(VOLUME, POINT, 9, MODERN, copied=later).since == 7
    for other in (
        replace(later, era_since=6, created_ns=3),
        replace(later, tracking_id="boot:0"),
    ):
        assert choose(VOLUME, POINT, 9, MODERN, copied=other).tracker is Tracker.COMPARE
