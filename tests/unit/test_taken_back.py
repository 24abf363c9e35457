"""What a protect takes back when its front cannot be taken down, and what a boot does without."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from dmsnap.catalogue.model import MountRecord, Volume, VolumeState
from dmsnap.errors import BusyError, DeadlineError, DmsnapError, NotFoundError
from dmsnap.host import lun, reach
from dmsnap.service.health import boot
from dmsnap.service.session import Session
from dmsnap.service.swaps import mounting
from dmsnap.service.volumes import assemble, assembly
from dmsnap.service.volumes.protect import Protection
from dmsnap.snapshot import layers, stack

VOLUME = Volume(
    id=UUID(int=1), name="srv", state=VolumeState.PROTECTED, backing="/dev/sdb",
    recovery="/dev/sdc", recovery_id=UUID(int=2), store="/store", size_bytes=1 << 30,
    block_bytes=65536, chunk_bytes=4096, fs_type="ext4", fs_uuid="aa-BB",
    mounts=(MountRecord("/srv", "ext4", ()),), generation=1, tracking_id="x", created_ns=0,
)  # fmt: skip


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done of all that an undo may do."""
    calls: list[str] = []

    def recorded(name: str) -> Callable[..., None]:
        return lambda *_, **__: calls.append(name)

    for module, name in (
        (boot, "withdraw"),
        (boot, "show"),
        (assembly, "tear_down"),
        (mounting, "mount_all"),
    ):
        monkeypatch.setattr(module, name, recorded(name))
    monkeypatch.setattr(assembly, "unmount_front", recorded("unmount_front"))
    return calls


def protection(done: list[str]) -> Protection:
    """One whose checks were made."""
    made = Protection.__new__(Protection)
    made.session = cast(
        Session,
        SimpleNamespace(
            configuration=SimpleNamespace(state_directory=Path("/s"), unmount_wait_seconds=0),
            catalogue=SimpleNamespace(remove_volume=lambda _: done.append("remove_volume")),
            create_area=lambda *_: None,
            release_area=lambda *_: done.append("release_area"),
        ),
    )
    made.volume, made.had_copy, made.pool, made.arguments = VOLUME, False, "", {}
    made.backing = made.recovery = cast(Any, SimpleNamespace(path=Path("/dev/sdb"), devno=1))
    made.metadata = made.copy = cast(Any, SimpleNamespace(steps=list))
    return made


@pytest.mark.parametrize("is_down", [True, False])
def test_of_a_stack_that_cannot_be_taken_down_nothing_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, done: list[str], is_down: bool
) -> None:
    monkeypatch.setattr(stack, "exists", lambda _: not is_down)
    failures = []
    for step in reversed(protection(done).plan().steps):
        try:
            if step.undo is not None:
                step.undo()
        except DmsnapError as error:
            failures.append(error)
    taken_down = ["unmount_front", "tear_down"]
    given_back = ["show", "mount_all", "withdraw", "release_area", "remove_volume"]
    assert done == (taken_down + given_back if is_down else taken_down)
    assert [type(error) for error in failures] == ([] if is_down else [BusyError] * 5)
    assert all("dmsnap unprotect srv" in str(error) for error in failures)


@pytest.mark.parametrize("state", [VolumeState.PROTECTED, VolumeState.BUILDING])
def test_a_front_leads_past_metadata_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, state: VolumeState
) -> None:
    """Of a volume that is being protected they must be: nothing is lost by taking that back."""

    def away(*_: object) -> None:
        raise NotFoundError("the store is away")

    past: list[Volume] = []
    monkeypatch.setattr(stack, "era_area", lambda *_: SimpleNamespace(path="/store/era"))
    monkeypatch.setattr(stack, "attach_area", away)
    monkeypatch.setattr(stack, "exists", lambda _: False)
    monkeypatch.setattr(assembly, "build_past_era", lambda _, volume: past.append(volume))
    volume = replace(VOLUME, state=state)
    if state is VolumeState.BUILDING:
        with pytest.raises(NotFoundError):
            assembly.build_front(cast(Session, None), volume, [])
        assert past == []
    else:
        assembly.build_front(cast(Session, None), volume, [])
        assert past == [volume]


def test_a_disk_that_hangs_is_asked_before_the_volume_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[list[Path], float]] = []

    def silent(devices: list[Path], seconds: float) -> list[Path]:
        asked.append((devices, seconds))
        return devices[:1]

    @contextmanager
    def held(*_: object, **__: object) -> Any:
        pytest.fail("it is held")
        yield

    monkeypatch.setattr(reach, "silent", silent)
    monkeypatch.setattr(layers, "below", lambda _: [Path("/dev/sdb")])
    monkeypatch.setattr(lun, "is_present", lambda _: True)
    monkeypatch.setattr(assemble, "places_of_store", lambda _: [Path("/dev/sdd")])
    monkeypatch.setattr(assemble, "held", held)
    session = SimpleNamespace(catalogue=SimpleNamespace(volume=lambda _: VOLUME))
    with pytest.raises(DeadlineError, match="/dev/sdb does not answer") as raised:
        assemble._assemble(cast(Session, session), "srv", dry_run=False, at_boot=False)
    assert "dmsnap swap srv" in str(raised.value.hint)
    assert asked == [([Path("/dev/sdb"), Path("/dev/sdd")], reach.ANSWER_SECONDS)]
