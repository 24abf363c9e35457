"""The crash matrix's tables as they are committed: what each of them has to prove."""

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from crashes import page
from crashes.page import Table
from crashes.scenarios import SCENARIOS

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
RESULTS = DOCS / "crash-matrix"
OPERATIONS = {scenario.name: scenario.operation for scenario in SCENARIOS}

# Tables that prove less than is asked of them, with the reason. None is added: it is made again.
LOST = "its revision is none of this history"
COUNTED = "points were counted and not looked into"
FAILED = "a row failed, and 8ff86ef mends that"
# Since 1d35bff these do not run: another disk of the lab's holds the same file system, none has a
# serial number, and assembling refuses as it cannot tell which one is the volume's.
REFUSED = "not run again: its volume is refused at boot (twins without an identity)"
OLD: dict[str, str] = {
    "point copy": f"{COUNTED}; {REFUSED}",
    "hydrate": f"{COUNTED}; {REFUSED}",
    "hydrate, promoted": f"{LOST}; {REFUSED}",
    "resize, promoted": f"{LOST}; {COUNTED}; {REFUSED}",
    "resize --give-up-former": f"{LOST}; {COUNTED}; {REFUSED}",
    "attach": f"{FAILED}; {REFUSED}",
}

# Tables of some steps, from before the names of the others were kept. None is added either.
OTHERS_NOT_KNOWN: set[str] = {
    "protect, a LUN",
    "unprotect, live",
    "unprotect, a LUN",
    "unprotect, pooled",
    "unprotect --give-up, live",
    "sync, hooks",
    "sync, past dm-era",
    "sync --force",
    "swap, units",
    "swap --kill",
    "swap, live",
    "swap, a LUN",
    "swap, torn replica",
    "swap revert, a LUN",
    "swap commit --drop-points",
    "hydrate --audit",
    "hydrate --drop-points",
    "resize --drop-points",
    "failback --audit",
    "failback, a LUN",
    "attach, no primary",
}


@pytest.fixture(scope="module")
def tables() -> Mapping[str, Table]:
    return page.kept(RESULTS, list(OPERATIONS))


def test_scenarios_have_files_of_their_own() -> None:
    paths = {page.path_of(RESULTS, name) for name in OPERATIONS}
    assert len(paths) == len(SCENARIOS)
    assert paths.issuperset(RESULTS.glob("*")), "results of what is no scenario"


def test_every_scenario_was_run(tables: Mapping[str, Table]) -> None:
    assert list(tables) == list(OPERATIONS)
    assert all(found.name == name and found.rows for name, found in tables.items())


def test_the_page_shows_what_is_kept() -> None:
    shown = (DOCS / "crash-matrix.md").read_text()
    assert shown == page.page(RESULTS, list(OPERATIONS)), "tests/lab/crash-matrix --render"


def test_nothing_failed(tables: Mapping[str, Table]) -> None:
    failed = {name for name, each in tables.items() if each.failures}
    assert failed == {name for name, reason in OLD.items() if FAILED in reason}


def test_points_were_looked_into(tables: Mapping[str, Table]) -> None:
    counted = {name for name, each in tables.items() if not each.looked_into}
    assert counted == {name for name, reason in OLD.items() if COUNTED in reason}


def test_revisions_are_of_this_history(tables: Mapping[str, Table]) -> None:
    """Of a rewritten history, or of a tree that was not committed, nobody can say what it was."""
    require_history()
    lost = {name for name, each in tables.items() if not is_ancestor(each.revision)}
    assert lost == {name for name, reason in OLD.items() if LOST in reason}


def require_history() -> None:
    """Skip where git is not there, or does not have all of it."""
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git repository")
    shallow = git("rev-parse", "--is-shallow-repository")
    if shallow.returncode != 0:
        pytest.skip(f"git does not read it: {shallow.stderr}")
    if shallow.stdout.strip() == "true":
        pytest.skip("a shallow clone")


def is_ancestor(revision: str) -> bool:
    """Whether it is a commit that HEAD comes from."""
    return git("merge-base", "--is-ancestor", revision, "HEAD").returncode == 0


def git(*words: str) -> "subprocess.CompletedProcess[str]":
    argv = ["git", "-C", str(CHECKOUT), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_every_step_of_an_operation_is_crashed_at(tables: Mapping[str, Table]) -> None:
    """By whichever of its scenarios: that another operation has a step of that name is no proof."""
    planned: defaultdict[str, set[str]] = defaultdict(set)
    crashed: defaultdict[str, set[str]] = defaultdict(set)
    for name, each in tables.items():
        planned[OPERATIONS[name]] |= each.planned or set()
        crashed[OPERATIONS[name]] |= each.crashed_at
    missing = {
        operation: sorted(steps - crashed[operation])
        for operation, steps in planned.items()
        if steps - crashed[operation]
    }
    assert not missing, "tests/lab/crashes/scenarios.py needs one with `only` for these"


def test_the_steps_of_an_operation_are_known(tables: Mapping[str, Table]) -> None:
    assert {name for name, each in tables.items() if each.planned is None} == OTHERS_NOT_KNOWN


def test_no_other_step_is_left_out_of_the_count(tables: Mapping[str, Table]) -> None:
    for name, each in tables.items():
        if each.steps is not None:
            assert len(each.steps) == len(each.rows) + each.others, name
            assert each.crashed_at.issubset(each.steps), name
