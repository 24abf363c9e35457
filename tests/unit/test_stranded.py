"""What a killed command left suspended is seen to, and what is suspended for a moment is not."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from dmsnap.catalogue import jobs
from dmsnap.daemon.stranded import Stranded
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.device import DmInfo
from dmsnap.service.health import stranded
from dmsnap.service.session import Session
from dmsnap.snapshot import stack

FRONT = DmInfo("srv", "LVM-front", 1, 0, True, True, False, False, 0)
ORIGIN = DmInfo("dmsnap-srv-origin", "DMSNAP-x-origin", 2, 0, False, True, False, False, 0)


def test_what_is_found_twice_is_concluded() -> None:
    found = [{"a"}, {"b"}, {"a", "b"}, {"b"}, set[str]()]
    begun: list[int] = []
    watch = Stranded(lambda: frozenset(found.pop(0)), lambda: begun.append(len(found)))
    while found:
        watch.look()
    assert begun == [2, 1]


@pytest.mark.parametrize(
    ("cut_off", "holders", "expected"),
    [
        (["a job"], [None, None], {"srv"}),
        ([], [None, None], set()),  # somebody else's, with whom nothing of ours was cut off
        (["a job"], ["sync"], set()),
        (["a job"], [None, "sync"], set()),  # it has begun since
    ],
)
def test_only_what_was_cut_off_and_is_held_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
    cut_off: list[str],
    holders: list[str | None],
    expected: set[str],
) -> None:
    answers = iter(holders)
    running: Callable[[str], str | None] = lambda _name: next(answers)  # noqa: E731
    volumes = [SimpleNamespace(name="srv", id="x")]
    session = SimpleNamespace(catalogue=SimpleNamespace(volumes=lambda: volumes), running=running)
    monkeypatch.setattr(jobs, "unfinished", lambda *_: cut_off)
    monkeypatch.setattr(stack, "front", lambda _: SimpleNamespace(uuid="LVM-front"))
    monkeypatch.setattr(dm, "list_devices", lambda _: [ORIGIN])
    monkeypatch.setattr(dm, "info", lambda *, uuid: FRONT if uuid == FRONT.uuid else None)
    assert stranded.devices(cast(Session, session)) == expected
