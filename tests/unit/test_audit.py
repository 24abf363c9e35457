"""Both sides compared: by digests, and byte by byte where those differ."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dmsnap._native import copy, digest
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap.recovery.replica import Replica
from dmsnap.service.replicas import audit
from dmsnap.units import MIB

SIZE = 4 * MIB
WRONG = 3 * MIB + 4096


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[int, Replica]]:
    """A point, and a replica with one wrong byte."""
    content = os.urandom(SIZE)
    paths = tmp_path / "point", tmp_path / "replica"
    paths[0].write_bytes(content)
    paths[1].write_bytes(content[:WRONG] + bytes([content[WRONG] ^ 1]) + content[WRONG + 1 :])
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("rb")) for path in paths]
        stand_in = SimpleNamespace(
            label=SimpleNamespace(size_bytes=SIZE),
            device=SimpleNamespace(path=paths[1]),
            fd=files[1].fileno(),
        )
        yield files[0].fileno(), cast(Replica, stand_in)


@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_what_differs_is_found(sides: tuple[int, Replica], limit: int) -> None:
    told: list[int] = []
    compared, different = audit.differences(
        *sides,
        ExtentSet.whole(SIZE),
        lambda done, _total: told.append(done),
        CopyOptions(bytes_per_second=limit),
    )
    assert compared == SIZE
    assert [each.offset_bytes for each in different] == [WRONG]
    before = ExtentSet.whole(WRONG)
    assert not audit.differences(*sides, before, None, CopyOptions(bytes_per_second=limit))[1]


def test_a_limit_holds_for_all_that_is_read(
    sides: tuple[int, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def noting(compare: Callable[..., object]) -> Callable[..., object]:
        def noted(*arguments: Any, **options: Any) -> object:
            given.append(options["options"].bytes_per_second)
            return compare(*arguments, **options)

        return noted

    for engine in (digest, copy):
        monkeypatch.setattr(engine, "compare", noting(engine.compare))
    audit.differences(*sides, ExtentSet.whole(SIZE), None, CopyOptions(bytes_per_second=1 << 40))
    assert given == [1 << 40, 1 << 40]
