"""The crash matrix: how crashes are judged, and the page that is made of what runs have kept."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crashes import page
from crashes.judgement import Outcome, Reference, Seen, judged
from crashes.page import FAILED, Table
from crashes.scenarios import SCENARIOS

from dmsnap.service.schedules.hooks import Phase

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "docs" / "crash-matrix"
SERVICE = CHECKOUT / "dmsnap" / "service"
NAMES = ("swap", "point delete, live", "resize")


def table(name: str, revision: str, *rows: tuple[str, str, str]) -> Table:
    """What a scenario came to."""
    return Table(name, f"dmsnap {name}", revision, "2026-01-02", "uml12", rows)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two scenarios that were run, one with a failure."""
    page.keep(tmp_path, table("point delete, live", "aaaa", ("forget", "done", "done")))
    page.keep(
        tmp_path, table("swap", "bbbb", ("mount", FAILED, "done"), ("record", "done", FAILED))
    )
    return tmp_path


def test_it_has_all_that_was_run_in_the_order_of_the_subject(results: Path) -> None:
    text = page.page(results, NAMES)
    assert "6 crashes, 2 failures" in text
    assert "Not run: resize." in text
    assert text.index("## swap") < text.index("## point delete, live")
    assert "`dmsnap point delete, live`, at aaaa, 2026-01-02" in text
    assert f"| mount | {FAILED} | done |" in text


def test_what_is_run_again_leaves_the_others(results: Path) -> None:
    before = page.kept(results, NAMES)
    page.keep(results, table("swap", "cccc", ("mount", "done", "done")))
    after = page.kept(results, NAMES)
    assert after["point delete, live"] == before["point delete, live"]
    assert after["swap"].revision == "cccc"
    assert "2 failures" not in page.page(results, NAMES)


def seen(state: str, **points: str) -> Seen:
    """A volume in a state, and points by what they show."""
    return Seen({"state": state, "contents": []}, points)


REFERENCE = Reference((), seen("before", one="aa"), seen("after", one="aa", two="bb"), {})


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (seen("before", one="aa"), Outcome.UNDONE),
        (seen("after", one="aa", two="bb"), Outcome.DONE),
        (seen("after", one="aa", new="cc"), Outcome.DONE),
    ],
)
def test_what_became_of_an_operation(found: Seen, outcome: Outcome) -> None:
    assert judged(REFERENCE, found) is outcome


@pytest.mark.parametrize(
    "found",
    [seen("between", one="aa"), seen("before", one="xx"), seen("after", one="aa", two="xx")],
)
def test_what_is_spoiled_is_no_outcome(found: Seen) -> None:
    with pytest.raises(AssertionError):
        judged(REFERENCE, found)


def test_a_step_of_which_other_tables_tell_is_counted(results: Path) -> None:
    page.keep(results, replace(table("resize", "dddd", ("record", "done", "done")), others=3))
    assert "its 3 other steps are in other tables" in page.page(results, NAMES)


def test_all_steps_of_an_operation_are_kept(results: Path) -> None:
    some = replace(table("resize", "dddd", ("record", "done", "done")), others=1)
    assert some.planned is None, "what the other is called was not kept"
    page.keep(results, replace(some, steps=("record", "grow")))
    assert page.kept(results, NAMES)["resize"].planned == frozenset({"record", "grow"})
    assert page.kept(results, NAMES)["swap"].planned == frozenset({"mount", "record"})


# What the recovery volume's label was spoiled by before the operation, which mends it first.


def with_label(state: str, label: str, notes: str, **points: str) -> Seen:
    return Seen({"state": state, "label": label, "contents": notes}, points)


FORMER = with_label("before", "ours", "one", one="aa", replica="bb")
MENDING = Reference(
    (),
    with_label("before", "lost", ""),
    with_label("after", "ours", "one", one="aa", replica="bb"),
    {},
    FORMER,
)


def test_a_label_may_be_mended_and_all_else_as_before() -> None:
    assert judged(MENDING, FORMER) is Outcome.LABEL_MENDED
    assert judged(MENDING, with_label("before", "lost", "")) is Outcome.UNDONE
    assert judged(MENDING, MENDING.after) is Outcome.DONE


@pytest.mark.parametrize(
    "found",
    [
        with_label("before", "torn", "one", one="aa", replica="bb"),
        with_label("before", "ours", "", one="aa", replica="bb"),
        with_label("before", "ours", "one", one="aa"),
        with_label("before", "ours", "one", one="aa", replica="xx"),
        with_label("before", "ours", "one", one="aa", replica="bb", new="cc"),
        with_label("between", "ours", "one", one="aa", replica="bb"),
        with_label("after", "lost", ""),
    ],
)
def test_nothing_else_may_come_of_a_label_that_is_mended(found: Seen) -> None:
    with pytest.raises(AssertionError):
        judged(MENDING, found)


def test_a_label_that_nothing_happened_to_is_not_mended() -> None:
    with pytest.raises(AssertionError, match="neither as before"):
        judged(replace(MENDING, former=None), FORMER)


# Steps that plans can have, and at which there was no crash yet, with the reason.
NOT_CRASHED: dict[str, str] = {}

# Where a step's name is not written out: what it can be.
NAMED_ELSEWHERE: dict[str, list[str]] = {
    "name": ["mark", "record"],  # points/keeping.py, by its own function
    "phase": list(Phase),
    "self.first": list(Phase),
    "self.second": list(Phase),
}


def step_names() -> Iterator[tuple[str, str]]:
    """Where a step is planned, and a pattern of its name."""
    for path in sorted(SERVICE.rglob("*.py")):
        module = ast.parse(path.read_text())
        texts = {
            target.id: node.value.value
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Step":
                where = f"{path.relative_to(SERVICE)}:{node.lineno}"
                yield from ((where, name) for name in names_of(node.args[0], texts))


def names_of(argument: ast.expr, texts: dict[str, str]) -> list[str]:
    """Patterns of what a step may be called."""
    if isinstance(argument, ast.Constant):
        return [re.escape(str(argument.value))]
    if isinstance(argument, ast.JoinedStr):
        return ["".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+"
            for part in argument.values
        )]  # fmt: skip
    written = ast.unparse(argument)
    return [re.escape(texts[written])] if written in texts else NAMED_ELSEWHERE[written]


def crashed_at() -> set[str]:
    """The steps of all tables that are kept."""
    tables = page.kept(RESULTS, [scenario.name for scenario in SCENARIOS])
    return {step for each in tables.values() for step in each.crashed_at}


def test_every_step_that_a_plan_can_have_is_crashed_at() -> None:
    known, crashed = list(step_names()), crashed_at()
    assert len(known) > 100
    missing = [
        f"{where}: {name}"
        for where, name in known
        if not any(re.fullmatch(name, step) for step in (*crashed, *NOT_CRASHED))
    ]
    assert not missing, "run tests/lab/crash-matrix, or say in NOT_CRASHED why there is no crash"
    excused = [name for name in NOT_CRASHED if name in crashed]
    assert not excused, "there is a crash at these by now"


def test_every_step_that_was_crashed_at_is_one_of_the_code() -> None:
    patterns = {name for _where, name in step_names()}
    gone = [step for step in crashed_at() if not any(re.fullmatch(name, step) for name in patterns)]
    assert not gone, "run tests/lab/crash-matrix again for their operations"
