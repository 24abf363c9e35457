"""A volume whose device has another size than was recorded."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue.model import VolumeState
from dmsnap.errors import NotFoundError, WrongStateError
from dmsnap.service.configuration.declaration import Declarations, Subclient
from dmsnap.service.resizing import aim, sizes
from dmsnap.service.schedules import policy_run
from dmsnap.units import GIB, KIB, TIB


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How large the device is that every path leads to; without an entry there is none."""
    has: dict[str, int] = {}

    def probe(path: Path) -> Any:
        if "size_bytes" not in has:
            raise NotFoundError(f"{path} is not there")
        return SimpleNamespace(path=path, **has)

    monkeypatch.setattr(sizes.BlockDevice, "probe", probe)  # type: ignore[attr-defined]
    return has


VOLUME = replace(a_volume(), name="srv", state=VolumeState.PROTECTED, size_bytes=GIB)


def test_the_same_size_and_one_that_cannot_be_told_are_nothing_to_tell(
    device: dict[str, int],
) -> None:
    assert sizes.of_volume(VOLUME) is None
    device["size_bytes"] = GIB
    assert sizes.of_volume(VOLUME) is None


def test_a_larger_device_is_followed_by_resize(device: dict[str, int]) -> None:
    device["size_bytes"] = 2 * GIB
    found = sizes.of_volume(VOLUME)
    assert found is not None
    assert not found.shrunk
    assert "from 1 GiB to 2 GiB: dmsnap resize srv follows it" in found.sentence
    sizes.require_not_shrunk(VOLUME)


def test_a_smaller_device_is_refused(device: dict[str, int]) -> None:
    device["size_bytes"] = GIB // 2
    with pytest.raises(WrongStateError, match="made smaller, from 1 GiB to 512 MiB"):
        sizes.require_not_shrunk(VOLUME)


def test_a_device_that_was_larger_from_the_beginning_was_not_made_larger(
    device: dict[str, int],
) -> None:
    moved = replace(VOLUME, device_bytes=2 * GIB)
    for size_bytes in (GIB, GIB + KIB, 2 * GIB):
        device["size_bytes"] = size_bytes
        assert sizes.of_volume(moved) is None
    device["size_bytes"] = 3 * GIB
    found = sizes.of_volume(moved)
    assert found is not None
    assert "was made larger, from 2 GiB to 3 GiB: dmsnap resize srv follows it" in found.sentence
    device["size_bytes"] = GIB - KIB
    with pytest.raises(WrongStateError, match="made smaller, from 1 GiB to"):
        sizes.require_not_shrunk(moved)


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [
        (GIB - KIB, "made smaller, from 1 GiB"),
        (2 * GIB - KIB, "made smaller, from 2 GiB"),  # its label lay there
        (2 * GIB, None),
        (2 * GIB + KIB, "made larger, from 2 GiB"),
    ],
)
def test_the_device_of_a_promoted_volume_is_known_by_what_it_had_then(
    device: dict[str, int], size_bytes: int, expected: str | None
) -> None:
    device["size_bytes"] = size_bytes
    found = sizes.of_volume(replace(VOLUME, state=VolumeState.PROMOTED, device_bytes=2 * GIB))
    assert (found is None) == (expected is None)
    assert found is None or (expected is not None and expected in found.sentence)


@pytest.mark.parametrize(
    ("state", "size_bytes", "expected"),
    [
        (VolumeState.TRIAL, 2 * GIB, False),
        (VolumeState.PROMOTED, 2 * GIB, False),  # its label lies behind it
        (VolumeState.PROMOTED, GIB // 2, True),
    ],
)
def test_what_serves_from_its_recovery_volume_is_larger_than_the_volume(
    device: dict[str, int], state: VolumeState, size_bytes: int, *, expected: bool
) -> None:
    device["size_bytes"] = size_bytes
    assert (sizes.of_volume(replace(VOLUME, state=state)) is not None) is expected


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [
        (GIB, None),
        (GIB + 63 * KIB, None),
        (GIB + 64 * KIB, None),  # it keeps its label, of when it was the recovery volume
        (GIB + 65 * KIB, False),
        (GIB - KIB, True),
    ],
)
def test_a_device_that_keeps_its_label_is_larger_than_the_volume(
    device: dict[str, int], size_bytes: int, expected: bool | None
) -> None:
    device["size_bytes"] = size_bytes
    volume = replace(VOLUME, device_bytes=GIB + 64 * KIB)
    found = sizes.of_volume(volume)
    assert (found.shrunk if found else None) is expected


def test_blocks_grow_with_the_volume_and_tracking_begins_anew() -> None:
    small = replace(VOLUME, block_bytes=64 * KIB)
    after = aim.grown(small, 2 * GIB)
    assert (after.size_bytes, after.block_bytes) == (2 * GIB, 64 * KIB)
    assert after.tracking_id != small.tracking_id
    assert aim.grown(small, 16 * TIB).block_bytes == 1024 * KIB
    assert aim.grown(replace(small, block_bytes=GIB), 2 * GIB).block_bytes == GIB


def test_runs_of_the_default_sub_clients_policy_look_around() -> None:
    declared = Declarations(subclient={"all": Subclient(default=True, policy="daily")})
    assert policy_run.looks_around(declared, "daily")
    assert not policy_run.looks_around(declared, "other")
    assert not policy_run.looks_around(Declarations(), "daily")
