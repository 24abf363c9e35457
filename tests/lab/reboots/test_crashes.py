"""A selection of the crash matrix: see tests/lab/crash-matrix, which has all of it."""

import pytest
from crashes.cell import Crash, Moment, row
from crashes.subject import SCENARIOS

SELECTION = {"sync": ("apply",), "swap commit, earlier": ("merge-1",)}


@pytest.mark.parametrize("name", SELECTION)
def test_power_is_lost(name: str) -> None:
    (scenario,) = (each for each in SCENARIOS if each.name == name)
    with row(scenario) as made:
        names = [step.name for step in made.reference.steps]
        for step in SELECTION[name]:
            for moment in Moment:
                made.run(Crash(names.index(step), moment))
