"""Where the time goes, as the bench tells it: parts of what was measured, without measuring."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from figures import era, load, memory, overhead, window
from figures.overhead import LINEAR, OURS, PATTERNS, Written
from figures.protected import FRONT
from measure.devices import MIB, TIB
from measure.model import Series, Unit
from measure.process import Usage
from measure.requests import Requests, busy_seconds, loops_in
from measure.summary import find, verdict
from report import table

from dmsnap._native import window as core
from dmsnap._native.window import WindowAction, WindowStep, WindowTimes

STAT = "  10 1 80 5   200 30 1600 70 0 60 75 0 0 0 0 4 2\n"


def named(found: Iterator[Series] | list[Series]) -> dict[str, tuple[float, ...]]:
    return {each.contestant: each.samples for each in found}


def test_the_parts_of_inspect_era_are_the_whole() -> None:
    taken = {
        era.START: [Usage(0.05, 0.04)] * 2,
        era.FOR_NOTHING: [Usage(0.09, 0.07), Usage(0.10, 0.08)],
        era.OURS: [Usage(0.15, 0.18), Usage(0.20, 0.19)],
        era.READ: [Usage(9.0)] * 2,
    }
    laps = [era.laps_of("0.03 0.06\n0.005 0.005\n")] * 2
    parts = named(era.parts_of(taken, laps))
    assert list(parts) == [era.START, era.IMPORTS, era.READ, era.PRINT, era.REST]
    assert [sum(each) for each in zip(*parts.values(), strict=True)] == pytest.approx([0.15, 0.20])
    assert parts[era.IMPORTS] == pytest.approx((0.04, 0.05))
    assert parts[era.READ] == (0.03, 0.03)


def test_what_memory_grows_by_is_held_against_a_bit_for_each_block() -> None:
    taken = {
        era.OURS: [Usage(1, 1, 150 * MIB), Usage(1, 1, 151 * MIB)],
        era.FOR_NOTHING: [Usage(1, 1, 20 * MIB)] * 2,
        era.START: [Usage(1, 1, 12 * MIB)] * 2,
    }
    figure = era.memory_figure(tuple(era.memory_of(64, taken)), 64)
    (goal,) = figure.goals
    assert era.bits_bytes(64) == 128 * MIB
    assert goal.bound == 9 / 8
    found = verdict(figure, goal)
    assert (found.value, found.met) == (130.5 / 128, True)
    shown = table.table(figure)
    assert "| volume |  | size, MiB |" in shown
    assert "|  | a bit for each block | 128 |" in shown
    assert "| what grows with the volume | 130 (130–131) |" in shown
    assert "loses" not in shown


def test_the_command_that_takes_most_is_held_against_what_any_may_take() -> None:
    """Sizes stand side by side, in the order in which the commands were run on the first."""
    taken = {("1 GiB", "sync"): 40, ("1 GiB", "swap"): 30, ("16 TiB", "sync"): 50,
             ("16 TiB", "swap"): 151}  # fmt: skip
    series = [Series(size, name, (peak * MIB,)) for (size, name), peak in taken.items()]
    figure = memory.figure(series, 8)
    found = [verdict(figure, goal) for goal in figure.goals]
    assert [(each.goal.case, each.value, each.met) for each in found] == [
        ("sync", 40 * MIB, True),
        ("swap", 151 * MIB, False),
    ]
    rows = [line for line in table.table(figure).splitlines()[2:] if line]
    assert rows == [
        "| sync | 1 GiB | 40.0 |",
        "|  | 16 TiB | 50.0 |",
        "| swap | 1 GiB | 30.0 |",
        "|  | 16 TiB | 151 |",
    ]


def test_an_image_has_its_share_of_dirty_blocks() -> None:
    assert era.DIRTY_PER_TIB * era.TINY // TIB == 24


def times(*seconds: float, whole: float, flush: float) -> WindowTimes:
    steps = tuple(WindowStep("DMSNAP-x", WindowAction.RESUME, seconds=each) for each in seconds)
    return WindowTimes(whole, flush, 1, steps)


def test_the_parts_of_a_window_are_its_steps_and_what_lies_between() -> None:
    windows = [
        times(0.004, 0.001, 0.0002, 0.0001, 0.002, whole=0.0075, flush=0.1),
        times(0.006, 0.001, 0.0002, 0.0001, 0.002, whole=0.0095, flush=0.2),
    ]
    parts = window.parts_of("idle", windows)
    found = named(parts)
    assert list(found) == [*window.STEPS, window.BETWEEN]
    assert found["suspend of the front"] == (0.004, 0.006)
    assert found[window.BETWEEN] == pytest.approx((0.0002, 0.0002))
    shown = table.table(window.parts_figure(tuple(parts)))
    assert "| load |  | median, ms | p90, ms | p99, ms | max, ms |" in shown
    assert "| idle | suspend of the front | 5.00 | 6.00 | 6.00 | 6.00 |" in shown


def test_windows_are_noted_where_they_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    point = times(1, 1, 1, 1, 1, whole=6, flush=0)
    exchange = times(1, 1, whole=3, flush=0)
    answers = iter([exchange, point])
    monkeypatch.setattr(core, "run", lambda *_steps, **_named: next(answers))
    untouched = core.run
    windows: list[WindowTimes] = []
    with window.noted(windows):
        assert core.run([], 1000) is exchange
        assert core.run([], 1000, file_systems=[]) is point
    assert windows == [point]
    assert core.run is untouched


def test_the_window_has_goals_for_both_ways_of_writing() -> None:
    texts = [goal.text for goal in window.whole_figure(()).goals]
    for name in ("4 KiB random buffered", "4 KiB random direct"):
        assert f"the window's median under {name} writes at full rate" in texts
        assert f"its 99th percentile under {name} writes" in texts
    assert set(window.RANDOM) <= set(load.COMMANDS)


def test_requests_are_counted_by_the_kernel(tmp_path: Path) -> None:
    assert Requests.parse(STAT) == Requests(reads=10, writes=200, merged=30)
    for number in ("7:0", "7:1"):
        directory = tmp_path / "dev/block" / number
        directory.mkdir(parents=True)
        (directory / "stat").write_text(STAT)
    both = Requests.of(["7:0", "7:1"], tmp_path)
    assert both - Requests.parse(STAT) == Requests(10, 200, 30)
    assert Requests.of([], tmp_path) == Requests()


def test_the_loop_devices_of_a_store(tmp_path: Path) -> None:
    for number, path in enumerate(("/s/store/a", "/s/storehouse/b", "/s/store/c/d")):
        directory = tmp_path / f"block/loop{number}"
        (directory / "loop").mkdir(parents=True)
        (directory / "loop/backing_file").write_text(f"{path}\n")
        (directory / "dev").write_text(f"7:{number}\n")
    assert loops_in(Path("/s/store"), tmp_path) == ["7:0", "7:2"]


def test_processors_that_wait_do_not_work(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 300 5000 600 7 3 0 0 0\ncpu0 1 1 1 1 1 1 1 0 0 0\n")
    assert busy_seconds(stat) == pytest.approx(4.3)


def runs() -> overhead.Runs:
    """A write of 1 MiB is 16 at the front and at the origin, and 4 at the disk."""
    ours = {
        "front": Requests(writes=1600),
        "origin": Requests(writes=1600),
        overhead.BACKING: Requests(reads=50, writes=400, merged=1200),
        overhead.STORES: Requests(writes=10),
    }
    linear = {LINEAR: Requests(writes=100), overhead.BACKING: Requests(writes=100)}
    return {
        (LINEAR, overhead.STEADY): [Written(2e9, 100, 0.05, 0.04, linear)] * 2,
        (OURS, overhead.STEADY): [Written(1e9, 100, 0.1, 0.09, ours)] * 2,
    }


def test_what_becomes_of_a_write() -> None:
    figure = overhead.requests_figure(PATTERNS[1], runs())
    assert [(each.contestant, each.samples[0]) for each in figure.series] == [
        ("dm-linear", 1),
        ("dm-linear: backing device", 1),
        ("front", 16),
        ("origin", 16),
        ("backing device", 4),
        ("backing device, put together", 12),
        ("backing device, reads", 0.5),
        ("era metadata and COW stores", 0.1),
    ]
    assert "× " not in table.table(figure)


def test_the_origin_resumed_is_a_case_of_its_own() -> None:
    assert overhead.in_order(0, overhead.STEADY, PATTERNS[1]) == (LINEAR, OURS, overhead.RESUMED)
    assert overhead.in_order(1, overhead.STEADY, PATTERNS[1]) == (OURS, LINEAR, overhead.RESUMED)
    assert overhead.in_order(1, overhead.STEADY, PATTERNS[0]) == (OURS, LINEAR)
    assert overhead.in_order(0, overhead.FRESH, PATTERNS[1]) == (LINEAR, OURS)
    resumed = Written(2e9, 100, 0.05, 0.04, {"origin": Requests(writes=1600)})
    taken = {**runs(), (overhead.RESUMED, overhead.STEADY): [resumed] * 2}
    shown = table.table(overhead.figure(PATTERNS[1], taken)).splitlines()
    assert shown[-1] == "|  | dmsnap, origin resumed since | 1.86 | 2.00 |  |"
    found = named(list(overhead.requests_figure(PATTERNS[1], taken).series))
    assert found["dmsnap, origin resumed since: origin"] == (16, 16)
    assert f"--filename={FRONT}" in overhead.fio(PATTERNS[1], overhead.RESUMED)


def test_what_the_processor_does_for_a_write() -> None:
    figure = overhead.processor_figure(PATTERNS[1], runs())
    ours = find(figure, OURS, overhead.STEADY)
    assert ours is not None
    assert (ours.samples, ours.cpu_seconds) == ((0.001,) * 2, (0.0009,) * 2)
    assert figure.unit is Unit.SECONDS
    shown = table.table(figure).splitlines()
    assert shown[0] == "| case |  | time, ms | processor, ms | × dmsnap |  |"
    assert shown[2].endswith("| 0.5 | limit |")


def test_the_rates_are_those_of_the_runs() -> None:
    figure = overhead.figure(PATTERNS[1], runs())
    (goal,) = figure.goals
    assert verdict(figure, goal).value == 0.5
