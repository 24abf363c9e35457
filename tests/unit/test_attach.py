"""A new recovery volume: which label counts beside which, and what is recorded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_volume
from test_pruning import a_label

from dmsnap._native.label import Label, LabelState
from dmsnap.catalogue.model import Parting, VolumeState
from dmsnap.errors import ForeignDeviceError, NotFoundError
from dmsnap.host.signature import Signature
from dmsnap.recovery import replica, search
from dmsnap.recovery.search import Labelled
from dmsnap.service.replicas import attach
from dmsnap.units import GIB, MIB

DEVICES = {"/dev/a": 1, "/dev/b": 2, "/dev/c": 3}
PRIMARY, COPYING, CONSISTENT = LabelState.PRIMARY, LabelState.COPYING, LabelState.CONSISTENT


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mapping[str, int]:
    """What there is: each path leads to a device of its own."""

    def probe(path: Path) -> Any:
        if str(path) not in DEVICES:
            raise NotFoundError(f"{path} is not there")
        return SimpleNamespace(path=path, devno=DEVICES[str(path)], size_bytes=GIB + 32 * MIB)

    monkeypatch.setattr(search.BlockDevice, "probe", probe)  # type: ignore[attr-defined]
    return DEVICES


def on(device: str, state: LabelState, former: str = "", recovery: UUID | None = None) -> Labelled:
    """A device with a label; ``former`` is the device that the label names as the volume's own."""
    label = replace(a_label(1), state=state, device=former, recovery_uuid=recovery or uuid4())
    return Labelled(search.BlockDevice.probe(Path(device)), label)  # type: ignore[attr-defined]


def told(*found: Labelled) -> list[str]:
    """The devices whose labels count, whatever the order in which they are found."""
    one = {str(each.device.path) for each in search.telling(found)}
    other = {str(each.device.path) for each in search.telling(found[::-1])}
    assert one == other
    return sorted(one)


@pytest.mark.parametrize("state", LabelState)
def test_one_label_is_what_counts(state: LabelState) -> None:
    assert told(on("/dev/b", state)) == ["/dev/b"]


@pytest.mark.parametrize("state", [CONSISTENT, LabelState.APPLYING, LabelState.MERGING])
def test_a_whole_recovery_volume_counts_before_what_became_the_volume(state: LabelState) -> None:
    assert told(on("/dev/b", PRIMARY, "/dev/a"), on("/dev/c", state, "/dev/b")) == ["/dev/c"]
    old = on("/dev/a", PRIMARY, "/dev/gone")
    middle = on("/dev/b", PRIMARY, "/dev/a")
    assert told(old, middle, on("/dev/c", state, "/dev/b")) == ["/dev/c"]
    assert told(old, middle, on("/dev/c", state, "/dev/gone")) == ["/dev/c"]


def test_half_a_copy_counts_for_nothing_beside_the_volume() -> None:
    assert told(on("/dev/b", PRIMARY, "/dev/a"), on("/dev/c", COPYING, "/dev/b")) == ["/dev/b"]
    # A protect that was cut off: it is all there is.
    assert told(on("/dev/c", COPYING, "/dev/b")) == ["/dev/c"]


def test_of_two_that_became_the_volume_the_later_one_names_the_other() -> None:
    assert told(on("/dev/b", PRIMARY, "/dev/a"), on("/dev/c", PRIMARY, "/dev/b")) == ["/dev/c"]
    # Neither does: which it is nobody can say.
    both = told(on("/dev/b", PRIMARY, "/dev/a"), on("/dev/c", PRIMARY, "/dev/gone"))
    assert both == ["/dev/b", "/dev/c"]


@pytest.mark.parametrize("state", [PRIMARY, CONSISTENT])
def test_copies_of_one_label_are_not_told_apart(state: LabelState) -> None:
    same = uuid4()
    found = (on("/dev/b", PRIMARY, "/dev/a", same), on("/dev/c", state, "/dev/b", same))
    assert told(*found) == ["/dev/b", "/dev/c"]


PROMOTED = replace(
    a_volume(),
    state=VolumeState.PROMOTED,
    backing="/dev/b",
    recovery=None,
    recovery_id=None,
    previous_backing="/dev/a",
    parting=Parting(1, None, "boot:1", "boot", 0),
    size_bytes=GIB,
)


def test_what_is_recorded_of_it() -> None:
    made = uuid4()
    after = attach.attached(PROMOTED, "/dev/c", made, Signature("xfs", "uuid-2"))
    assert (after.state, after.backing) == (VolumeState.PROTECTED, "/dev/b")
    assert (after.recovery, after.recovery_id) == ("/dev/c", made)
    assert (after.previous_backing, after.parting) == (None, None)
    assert after.left_behind == ("/dev/a",)
    assert after.device_bytes == GIB + 32 * MIB
    assert (after.fs_type, after.fs_uuid) == ("xfs", "uuid-2")
    same = ("generation", "tracking_id", "mounts", "units", "size_bytes")
    assert all(getattr(after, name) == getattr(PROMOTED, name) for name in same)


def test_what_becomes_the_recovery_volume_is_not_left_behind() -> None:
    before = replace(PROMOTED, left_behind=("/dev/c", "/dev/x", "/dev/a"))
    assert attach.attached(before, "/dev/c", uuid4()).left_behind == ("/dev/x", "/dev/a")
    assert attach.attached(PROMOTED, "/dev/a", uuid4()).left_behind == ()


def test_the_former_primary_is_for_failback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach.lun, "is_present", lambda name: name in DEVICES)  # type: ignore[attr-defined]
    former, other = (search.BlockDevice.probe(Path(path)) for path in ("/dev/a", "/dev/c"))  # type: ignore[attr-defined]
    with pytest.raises(ForeignDeviceError, match="is the former device of srv") as caught:
        attach.require_not_former(PROMOTED, former, overwrite=False)
    assert "dmsnap failback srv" in str(caught.value.hint)
    attach.require_not_former(PROMOTED, former, overwrite=True)
    attach.require_not_former(PROMOTED, other, overwrite=False)
    gone = replace(PROMOTED, previous_backing="/dev/gone")
    attach.require_not_former(gone, former, overwrite=False)


def test_a_label_is_of_the_primary_when_it_says_so() -> None:
    label: Label = replace(
        a_label(1), state=PRIMARY, volume_uuid=PROMOTED.id, size_bytes=PROMOTED.size_bytes
    )
    assert replica.is_of_primary(label, PROMOTED)
    for other in (
        replace(label, state=CONSISTENT),
        replace(label, volume_uuid=uuid4()),
        replace(label, size_bytes=PROMOTED.size_bytes + MIB),
    ):
        assert not replica.is_of_primary(other, PROMOTED)
