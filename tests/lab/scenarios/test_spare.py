"""Era metadata that is formatted before a swap needs it: made, used once, and given back."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from conftest import (
    MIB,
    Ended,
    Lab,
    catalogue_rows,
    dm_devices,
    dmsnap,
    forked,
    rarely,
    run,
)
from raw_volume import Protected, protected
from test_failback import look_at, scribble
from test_interrupts import Bench, killed

from dmsnap.service.volumes.spare import Making

SIZE = 32 * MIB


@pytest.fixture(autouse=True)
def small_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes of the size of a test have no spare otherwise: formatting theirs takes no time."""
    configuration = tmp_path / "dmsnap.toml"
    configuration.write_text("spare_from_bytes = 0\n")
    monkeypatch.setenv("DMSNAP_CONFIG", str(configuration))


def spares() -> list[str]:
    """The files of spares, whatever volume they are of."""
    return [path for (path,) in catalogue_rows("select path from area where role = 'era-spare'")]


def unfinished() -> list[tuple[Any, ...]]:
    return catalogue_rows("select path from area where role = 'era-spare-unfinished'")


def steps(*words: object) -> list[str]:
    return list(dmsnap(*words)["steps"])


def test_every_swap_finds_its_metadata_formatted(lab: Lab) -> None:
    volume = protected(lab, SIZE)
    used = []
    for _ in range(2):
        used += spares()
        assert "make-era-metadata" not in steps("swap", volume.name, "--trial")
        assert spares() == []
        (metadata,) = catalogue_rows(
            "select path from area where role = 'era-metadata' order by generation desc limit 1"
        )
        assert metadata == (used[-1],)
        dmsnap("swap", "revert", volume.name)
    used += spares()
    dmsnap("swap", volume.name, "--trial")
    scribble(volume, 3, 1)
    dmsnap("swap", "commit", volume.name)
    scribble(volume, 3, 2)
    used += spares()
    result = dmsnap("failback", volume.name)
    assert "make-era-metadata" not in result["steps"]
    assert (result["tracker"], result["reason"]) == ("era", None)
    used += spares()
    assert len(used) == len(set(used)) == 5
    scribble(volume, 3, 3)
    result = volume.sync("--audit", "full")
    assert (result["tracker"], result["bytes_dirty"]) == ("era", 3 * volume.block_bytes)
    volume.check_equal()
    assert spares() == used[-1:]
    assert dmsnap("status", volume.name)[0]["spare_reason"] is None
    dmsnap("unprotect", volume.name)
    assert list((lab.directory / "store").iterdir()) == []


def spoil(path: str) -> None:
    device = run("losetup", "-j", path, "-O", "NAME", "-n").strip()
    run("dd", "if=/dev/urandom", f"of={device}", "bs=4096", "count=1", "oflag=direct")


def hold(path: str) -> None:
    """Another target has it open: an era target loaded over that would destroy it."""
    device = run("losetup", "-j", path, "-O", "NAME", "-n").strip()
    run("dmsetup", "create", f"holder-{uuid4().hex[:6]}", "--table", f"0 8 linear {device} 0")


def let_go() -> None:
    for name in run("dmsetup", "ls").split():
        if name.startswith("holder-"):
            run("dmsetup", "remove", name)


@pytest.mark.parametrize("harm", [spoil, hold, os.unlink], ids=["spoiled", "held", "gone"])
def test_one_that_is_not_what_it_should_be_is_not_used(
    lab: Lab, harm: Callable[[str], None]
) -> None:
    volume = protected(lab, SIZE)
    (spare,) = spares()
    harm(spare)
    try:
        assert "no spare" in dmsnap("status", volume.name)[0]["spare_reason"]
        assert "make-era-metadata" in steps("swap", volume.name, "--trial")
    finally:
        let_go()
    dmsnap("swap", "revert", volume.name)
    # Nobody has opened what was held: it is as good as before.
    assert (spares() == [spare]) is (harm is hold)
    assert "make-era-metadata" not in steps("swap", volume.name, "--trial")
    dmsnap("swap", "revert", volume.name)
    scribble(volume, 3, 1)
    assert volume.sync("--audit", "full")["tracker"] == "era"


def test_it_takes_no_room_that_a_point_needs(lab: Lab) -> None:
    """The store has room for the metadata in use and a point, and not for a spare beside them."""
    store = lab.directory / "small"
    store.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=23m", "none", store)
    lab.mounts.append(store)
    name = lab.name()
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    dmsnap("protect", primary, "--name", name, "--recovery", recovery, "--store", store)
    assert spares() == []
    assert "beside a point takes" in dmsnap("status", name)[0]["spare_reason"]
    dmsnap("sync", name)
    run("mount", "-o", "remount,size=64m", store)
    dmsnap("sync", name)
    assert len(spares()) == 1
    assert "make-era-metadata" not in steps("swap", name, "--trial")
    dmsnap("swap", "revert", name)
    dmsnap("unprotect", name)


@pytest.mark.parametrize("when", ["after", rarely("before")])
@pytest.mark.parametrize("step", ["_create", "_format", "_record"])
@pytest.mark.parametrize("number", [signal.SIGKILL, rarely(signal.SIGTERM)])
def test_one_that_was_not_finished_is_made_anew(
    lab: Lab, step: str, when: str, number: signal.Signals
) -> None:
    """The command that made it was done: a signal takes nothing away from that."""
    volume = protected(lab, SIZE)
    (first,) = spares()
    dmsnap("swap", volume.name, "--trial")
    do = getattr(Making, step)

    def interrupted(making: Making) -> None:
        if when == "before":
            os.kill(os.getpid(), number)
        do(making)
        if when == "after":
            os.kill(os.getpid(), number)

    with patch.object(Making, step, interrupted):
        ended = forked("swap", "revert", volume.name)
    if number is signal.SIGTERM:
        assert ended.code == 0, ended
        assert unfinished() == []
    else:
        assert ended.code == -signal.SIGKILL, ended
    result = volume.sync("--audit", "full")
    assert result["tracker"] == "era"
    assert unfinished() == []
    assert len(spares()) == 1
    assert spares() != [first]
    assert [name for name in dm_devices() if "-era-" in name] == []
    assert len(list(Path(lab.store()).iterdir())) == 2


def test_a_swap_that_was_killed_has_used_it_up(lab: Lab) -> None:
    bench = Bench.made(lab)
    bench.look = lambda: look_at(lab)  # type: ignore[method-assign]
    taken: set[str] = set()

    def before() -> None:
        assert len(spares()) == 1
        assert not taken & set(spares())

    def again(ended: Ended, _step: str) -> None:
        dmsnap("point", "list", bench.name)
        ((state,),) = catalogue_rows("select state from volume where removed_ns is null")
        if state == "trial":
            dmsnap("swap", "revert", bench.name)
        dmsnap("sync", bench.name)
        taken.update(path for (path,) in catalogue_rows(
            "select path from area where role = 'era-metadata' and generation > 1"))  # fmt: skip

    killed(bench, ["swap", bench.name, "--trial"], again, prepare=before)


def test_small_volumes_have_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DMSNAP_CONFIG")
    volume: Protected = protected(lab, SIZE)
    assert spares() == []
    assert dmsnap("status", volume.name)[0]["spare_reason"] is None
    assert "make-era-metadata" in steps("swap", volume.name, "--trial")
    dmsnap("swap", "revert", volume.name)
