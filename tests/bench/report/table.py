"""A figure as a Markdown table: a row for each contestant in each case."""

from collections.abc import Sequence

from measure.model import Figure, Plot, Series, Statistic, Unit
from measure.summary import STATISTICS, Spread, cases, find, ratio, spread

from report.quantity import Scale

RATIO = Scale("", 1.0)
WORDS = {
    Unit.SECONDS: "time",
    Unit.BYTES: "size",
    Unit.BYTES_PER_SECOND: "rate",
    Unit.OPERATIONS_PER_SECOND: "rate",
    Unit.COUNT: "number",
}
PERCENTILES = (Statistic.P90, Statistic.P99, Statistic.MAX)


def table(figure: Figure) -> str:
    """The whole table; columns that nobody has anything in are left out."""
    columns = [
        column
        for column in (cases_column(figure), names_column(figure), *value_columns(figure))
        if any(column[1:])
    ]
    rows = list(zip(*columns, strict=True))
    rule = "|".join(["---", "---", *("---:" for _ in columns[2:])])
    lines = [" | ".join(row) for row in rows]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def ordered(figure: Figure) -> list[Series]:
    """All series, case by case."""
    return [series for case in cases(figure) for series in figure.series if series.case == case]


def cases_column(figure: Figure) -> list[str]:
    """The case where it begins, and nothing in the rows after that."""
    column, last = [figure.axis or "case"], ""
    for series in ordered(figure):
        column.append(series.case if series.case != last else "")
        last = series.case
    return column


def names_column(figure: Figure) -> list[str]:
    """The contestants, the subject in bold."""
    names = [series.contestant for series in ordered(figure)]
    return ["", *(f"**{name}**" if name == figure.subject else name for name in names)]


def value_columns(figure: Figure) -> list[list[str]]:
    """What was measured and what it comes to."""
    columns = [samples_column(figure)]
    if figure.plot is Plot.DISTRIBUTION:
        columns += [percentile_column(figure, statistic) for statistic in PERCENTILES]
    columns += [cpu_column(figure), memory_column(figure), *ratio_columns(figure)]
    columns.append(["", *(series.note for series in ordered(figure))])
    return columns


def scale_of(figure: Figure) -> Scale:
    """The scale of the figure's samples."""
    medians = (STATISTICS[Statistic.MEDIAN](series) for series in figure.series)
    return Scale.fitting(figure.unit, medians)


def samples_column(figure: Figure) -> list[str]:
    """Medians; with the spread, unless percentiles stand beside them."""
    scale = scale_of(figure)
    spreads = [spread(series.samples) for series in ordered(figure)]
    if figure.plot is Plot.DISTRIBUTION:
        return [scale.heading("median"), *(scale.number(each.median) for each in spreads)]
    return [scale.heading(WORDS[figure.unit]), *(scale.spread(each) for each in spreads)]


def percentile_column(figure: Figure, statistic: Statistic) -> list[str]:
    """One of the percentiles of every series."""
    scale = scale_of(figure)
    values = [scale.number(STATISTICS[statistic](series)) for series in ordered(figure)]
    return [scale.heading(statistic.value), *values]


def cpu_column(figure: Figure) -> list[str]:
    """The processor's time where it was measured."""
    measured = [spread(series.cpu_seconds) for series in figure.series if series.cpu_seconds]
    scale = Scale.fitting(Unit.SECONDS, (each.median for each in measured))
    cells = [
        scale.spread(spread(series.cpu_seconds)) if series.cpu_seconds else ""
        for series in ordered(figure)
    ]
    return [scale.heading("processor"), *cells]


def memory_column(figure: Figure) -> list[str]:
    """The largest resident memory where it was measured."""
    scale = Scale("MiB", 2**20)
    cells = [
        scale.number(max(series.peak_bytes)) if series.peak_bytes else ""
        for series in ordered(figure)
    ]
    return [scale.heading("memory"), *cells]


def ratio_columns(figure: Figure) -> list[list[str]]:
    """How many times the subject's samples are those of the others, and who wins."""
    ratios, words = [f"× {figure.subject}"], [""]
    for series in ordered(figure):
        subject = find(figure, figure.subject, series.case)
        if subject is None or subject is series:
            ratios.append("")
            words.append("")
            continue
        beside = ratio(series.samples, subject.samples)
        ratios.append(RATIO.spread(beside))
        words.append(outcome(figure, series.contestant, beside))
    return [ratios, words]


def outcome(figure: Figure, contestant: str, beside: Spread) -> str:
    """Says in words where the subject loses, and where the spread leaves it open."""
    if contestant in figure.limits:
        return "limit"
    if contestant.startswith(figure.subject):
        return ""  # the subject itself, done otherwise
    if beside.low < 1 < beside.high:
        return "not decided"
    loses = beside.median > 1 if figure.more_is_better else beside.median < 1
    return f"**{figure.subject} loses**" if loses else ""


def commands(figure: Figure) -> Sequence[str]:
    """The command lines of a figure, each once."""
    lines = {f"# {series.contestant}\n{series.command}": None for series in figure.series
             if series.command}  # fmt: skip
    return list(lines)


def rounds(figure: Figure) -> str:
    """How many samples the series have."""
    counts = sorted({len(series.samples) for series in figure.series})
    return str(counts[0]) + (f" to {counts[-1]}" if len(counts) > 1 else "")
