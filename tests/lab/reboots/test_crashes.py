"""A selection of the crash matrix: see tests/lab/crash-matrix, which has all of it."""

import pytest
from crashes.booting import recover
from crashes.cell import Crash, Moment, look, row
from crashes.judgement import Outcome, Reference, judged
from crashes.scenarios import SCENARIOS
from crashes.subject import DISKS, Scenario, prepare
from harness.computer import computer

SELECTION = {
    "protect": ("mark-consistent",),
    "sync": ("apply",),
    "swap commit, earlier": ("merge-1",),
}


def scenario_of(name: str) -> Scenario:
    """The scenario of that name."""
    return next(each for each in SCENARIOS if each.name == name)


@pytest.mark.parametrize("name", SELECTION)
def test_power_is_lost(name: str) -> None:
    with row(scenario_of(name)) as made:
        names = [step.name for step in made.reference.steps]
        for step in SELECTION[name]:
            for moment in Moment:
                made.run(Crash(names.index(step), moment))


@pytest.mark.parametrize("name", ["point keep", "swap --from-label"])
def test_a_spoiled_history_is_seen(name: str) -> None:
    """The check itself: of a volume that is protected, and of one that only the label knows."""
    scenario = scenario_of(name)
    with computer(DISKS, init="minimal") as made:
        prepare(made, scenario)
        made.boot()
        recover(made, scenario)
        seen, recovery = look(made, scenario), made.device("recovery")
        before = Reference((), seen, seen, {})
        assert len(seen.points) == 2
        assert judged(before, look(made, scenario)) is Outcome.AS_BEFORE
        (store,) = made.dmsnap("inspect", "label", recovery)["history"]
        # Of what it keeps, behind its header and the first area of its metadata.
        chunk_bytes = store["chunk_size"] * 512
        spoiled = (store["store_offset_bytes"] + 10 * chunk_bytes) // 4096
        made.shell(f"dd if=/dev/urandom of={recovery} bs=4K count=1 seek={spoiled} oflag=direct")
        with pytest.raises(AssertionError, match="shows something else"):
            judged(before, look(made, scenario))
