"""The bench's statistics, store and page, without measuring anything."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from measure import process, store, summary
from measure.model import Figure, Goal, Machine, Plot, Section, Series, Statistic, Unit
from measure.process import BenchError, Usage, alternating, used
from measure.summary import Spread
from report import quantity, table
from report.quantity import Scale

HOST = Machine("the host", "Debian", "Linux 6.1", "a processor", 2, 8 << 30, "ext4", (), 0.5)
FIGURE = Figure(
    key="copy",
    title="Copying",
    text="Two ways.",
    unit=Unit.SECONDS,
    series=(
        Series("dmsnap", "disk", (2.0, 1.0, 4.0), (0.5,), (1 << 20,), "dmsnap copy"),
        Series("dd", "disk", (4.0, 3.0, 4.0), (1.5,), (2 << 20,), "dd if=x"),
        Series("nbdcopy", "disk", (1.0, 0.75, 3.0), command="nbdcopy x"),
        Series("fio", "disk", (1.0, 0.5, 2.0)),
        Series("dmsnap", "tmpfs", (0.5, 0.25, 0.25)),
        Series("dd", "tmpfs", (0.25, 0.5, 0.25)),
    ),
    limits=("fio",),
    goals=(Goal("twice dd", "disk", "dmsnap", 0.5, against="dd"),),
)
SECTION = Section("copy", "Copy", 1_700_000_000 * 10**9, 3.0, False, "abc", (HOST,), (FIGURE,))


def test_percentiles_are_samples() -> None:
    samples = [float(number) for number in range(1, 201)]
    assert summary.percentile(samples, 99) == 198
    assert summary.percentile(samples, 90) == 180
    assert summary.percentile(samples[:1], 1) == 1
    assert summary.percentile(samples, 100) == 200


@given(st.lists(st.floats(0, 1e9), min_size=1), st.integers(1, 100))
def test_a_percentile_is_not_exceeded_by_its_share(samples: list[float], percent: int) -> None:
    value = summary.percentile(samples, percent)
    assert value in samples
    assert sum(sample <= value for sample in samples) * 100 >= percent * len(samples)
    assert sum(sample < value for sample in samples) * 100 < percent * len(samples)


def test_ratios_are_taken_round_by_round() -> None:
    # The second round of both was slow: it counts as much as the others.
    assert summary.ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 2.2)
    assert summary.ratio([4.0, 6.0], [1.0, 2.0, 3.0]) == Spread(2.5, 2.5, 2.5)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal("", "disk", "dmsnap", 0.5, against="dd"), 0.5, True),
        (Goal("", "disk", "dmsnap", 0.49, against="dd"), 0.5, False),
        # The medians' ratio is 2; in two of three rounds it was less.
        (Goal("", "disk", "dmsnap", 1.5, against="nbdcopy"), 4 / 3, True),
        (Goal("", "disk", "dmsnap", 1.9), 2.0, False),
        (Goal("", "disk", "dmsnap", 3.9, Statistic.MAX), 4.0, False),
        (Goal("", "disk", "dmsnap", 4.0, Statistic.P99), 4.0, True),
        (Goal("", "disk", "dmsnap", 0.5, Statistic.CPU, "dd"), 1 / 3, True),
        (Goal("", "disk", "dmsnap", 1 << 20, Statistic.MEMORY), 1 << 20, True),
        (Goal("", "tmpfs", "dmsnap", 0.95, against="dd", at_least=True), 1.0, True),
        (Goal("", "tmpfs", "dmsnap", 1.05, against="dd", at_least=True), 1.0, False),
    ],
)
def test_verdicts(goal: Goal, value: float, met: bool) -> None:
    found = summary.verdict(FIGURE, goal)
    assert found.value == pytest.approx(value)
    assert found.met is met


def test_a_goal_for_what_was_not_measured_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no rsync in 'disk'"):
        summary.verdict(FIGURE, Goal("", "disk", "rsync", 1.0))


def test_the_table_says_where_we_lose() -> None:
    lines = table.table(FIGURE).splitlines()
    assert lines[0] == "| case |  | time, s | processor, s | memory, MiB | × dmsnap |  |"
    assert lines[2] == "| disk | **dmsnap** | 2.00 (1.00–4.00) | 0.5 | 1.00 |  |  |"
    assert lines[3] == "|  | dd | 4.00 (3.00–4.00) | 1.50 | 2.00 | 2.00 (1.00–3.00) |  |"
    assert lines[4].endswith("| 0.75 (0.5–0.75) | **dmsnap loses** |")
    assert lines[5].endswith("| limit |")
    assert lines[6].startswith("| tmpfs | **dmsnap** |")
    assert lines[7].endswith("| 1.00 (0.5–2.00) | not decided |")


def test_parts_are_no_contest() -> None:
    lines = table.table(replace(FIGURE, subject="")).splitlines()
    assert lines[0] == "| case |  | time, s | processor, s | memory, MiB |"
    assert "loses" not in "".join(lines)


def test_rates_are_better_when_they_are_larger() -> None:
    rates = replace(FIGURE, unit=Unit.BYTES_PER_SECOND, more_is_better=True)
    lines = table.table(rates).splitlines()
    assert lines[4].endswith("| 0.75 (0.5–0.75) |  |")
    assert lines[3].endswith("| 2.00 (1.00–3.00) | **dmsnap loses** |")


def test_distributions_have_percentiles() -> None:
    samples = tuple(number / 1000 for number in range(1, 201))
    figure = replace(
        FIGURE, plot=Plot.DISTRIBUTION, series=(Series("dmsnap", "idle", samples),), axis="load"
    )
    assert table.table(figure).splitlines()[::2] == [
        "| load |  | median, ms | p90, ms | p99, ms | max, ms |",
        "| idle | **dmsnap** | 100 | 180 | 198 | 200 |",
    ]


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (Unit.SECONDS, 0.0605, "60.5 ms"),
        (Unit.SECONDS, 61.04, "61.0 s"),
        (Unit.SECONDS, 0.0, "0 ms"),
        (Unit.BYTES, 150 << 20, "150 MiB"),
        (Unit.BYTES, 16 << 40, "16.0 TiB"),
        (Unit.OPERATIONS_PER_SECOND, 12_345, "12.3 1000/s"),
        (Unit.COUNT, 1_234_567, "1,234,567"),
    ],
)
def test_numbers_with_units(unit: Unit, value: float, text: str) -> None:
    assert quantity.exact(unit, value) == text


def test_a_table_has_one_scale() -> None:
    scale = Scale.fitting(Unit.SECONDS, [0.002, 3.0])
    assert scale.spread(Spread(0.002, 0.5, 3.0)) == "0.5 (0.002–3.00)"


def test_sections_come_back_from_their_files(tmp_path: Path) -> None:
    store.save(SECTION, tmp_path)
    assert store.load_all(tmp_path) == {"copy": SECTION}
    assert [path.name for path in tmp_path.iterdir()] == ["copy.json"]


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    path = store.save(SECTION, tmp_path)
    path.write_text(path.read_text().replace('"title"', '"headline"'))
    with pytest.raises(ValueError, match="title"):
        store.load(path)


def test_the_page_says_when_on_what_and_whether_goals_are_met(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make bench installs it")
    from report import page

    slower = replace(FIGURE, key="slower", goals=(replace(FIGURE.goals[0], bound=0.25),))
    other = replace(SECTION, name="other", machines=(replace(HOST, load_average=7.0),))
    sections = [SECTION, replace(other, figures=(slower,))]
    page.write(sections, tmp_path / "benchmarks.md", tmp_path / "plots")
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| twice dd | ≤ 0.5 × dd | 0.5 × dd | met |" in text
    assert "| twice dd | ≤ 0.25 × dd | 0.5 × dd | **missed** |" in text
    assert text.count("**A**, the host: Debian, Linux 6.1") == 1
    assert "Measured 2023-11-14 22:13 UTC in 3 s at revision `abc` on A" in text
    assert "load average before it 7.00" in text
    assert "# nbdcopy\nnbdcopy x\n" in text
    for key in ("copy", "slower"):
        assert f"](plots/{key}.svg)" in text
        assert "</svg>" in (tmp_path / "plots" / f"{key}.svg").read_text()


@pytest.mark.parametrize("plot", [Plot.BARS, Plot.LINES, Plot.DISTRIBUTION])
def test_the_same_figure_gives_the_same_plot(tmp_path: Path, plot: Plot) -> None:
    pytest.importorskip("matplotlib", reason="make bench installs it")
    from report.plot import draw

    series = tuple(replace(each, position=2.0) for each in FIGURE.series)
    files = [tmp_path / "first.svg", tmp_path / "second.svg"]
    for path in files:
        draw(replace(FIGURE, plot=plot, series=series), path)
    first, second = (path.read_text() for path in files)
    assert first == second
    assert all(name in first for name in ("dmsnap", "nbdcopy", "fio"))


def test_contestants_go_in_turn_and_every_other_round_backwards() -> None:
    order: list[str] = []
    taken = alternating(3, {"a": lambda: Usage(1.0), "b": lambda: None}, before=order.append)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert taken["a"] == [Usage(1.0)] * 3
    assert all(0 <= usage.seconds < 1 for usage in taken["b"])


@pytest.mark.skipif(not Path("/usr/bin/time").exists(), reason="make bench installs it")
def test_what_a_program_used() -> None:
    grown = bytearray(64 << 20)  # our own memory is not the child's
    work = "x = bytearray(24 << 20)\nfor _ in range(2000000): pass"
    usage = used(sys.executable, "-S", "-c", work)
    assert len(grown) > usage.peak_bytes > 24 << 20
    assert usage.seconds > 0
    assert 0.01 < usage.cpu_seconds < 30


def test_a_program_that_fails_ends_the_section() -> None:
    with pytest.raises(BenchError, match="false: 1") as caught:
        process.run("false")
    assert caught.value.status == 1
    assert process.run("false", expected=(1,)) == ""
