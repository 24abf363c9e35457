"""Choosing from a pool."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.errors import NotFoundError, TooSmallError
from dmsnap.policy.pool import Choice, OfferedVolume, choose, named
from dmsnap.units import GIB

DISKS = [
    OfferedVolume("/dev/c", 4 * GIB),
    OfferedVolume("/dev/b", GIB),
    OfferedVolume("/dev/a", GIB),
]

volumes = st.lists(
    st.builds(OfferedVolume, st.text("abc", min_size=1), st.integers(1, 50)), min_size=1
)


def first(_count: int) -> int:
    return 0


def test_the_best_fit_is_the_smallest_that_suffices() -> None:
    assert choose("disks", DISKS, Choice.BEST_FIT, GIB, first).name == "/dev/a"
    assert choose("disks", DISKS, Choice.BEST_FIT, GIB + 1, first).name == "/dev/c"


def test_at_random_is_among_all_that_suffice() -> None:
    below = random.Random(1).randrange
    chosen = {choose("disks", DISKS, Choice.RANDOM, GIB, below).name for _ in range(50)}
    assert chosen == {"/dev/a", "/dev/b", "/dev/c"}
    assert choose("disks", DISKS, Choice.RANDOM, 2 * GIB, below).name == "/dev/c"


def test_one_that_is_named_is_taken_or_refused() -> None:
    assert named("disks", DISKS, "/dev/b", GIB) is DISKS[1]
    with pytest.raises(NotFoundError, match="does not offer /dev/x") as caught:
        named("disks", DISKS, "/dev/x", GIB)
    assert caught.value.hint == "it offers /dev/a, /dev/b, /dev/c"
    with pytest.raises(TooSmallError, match="/dev/b has 1 GiB"):
        named("disks", DISKS, "/dev/b", 2 * GIB)
    with pytest.raises(NotFoundError) as caught:
        named("disks", [], "/dev/x", GIB)
    assert caught.value.hint == "all of its volumes are in use"


def test_what_does_not_suffice_is_said_of_the_largest() -> None:
    with pytest.raises(TooSmallError, match="/dev/c has 4 GiB, the recovery volume from the pool"):
        choose("disks", DISKS, Choice.BEST_FIT, 5 * GIB, first)
    with pytest.raises(NotFoundError, match="offers nothing"):
        choose("disks", [], Choice.RANDOM, GIB, first)


@given(volumes, st.integers(1, 60), st.sampled_from(Choice), st.randoms())
def test_what_is_chosen_suffices_and_best_fit_wastes_least(
    offered: list[OfferedVolume], needed: int, choice: Choice, source: random.Random
) -> None:
    fitting = [each for each in offered if each.capacity_bytes >= needed]
    if not fitting:
        with pytest.raises(TooSmallError):
            choose("pool", offered, choice, needed, source.randrange)
        return
    chosen = choose("pool", offered, choice, needed, source.randrange)
    assert chosen in fitting
    if choice is Choice.BEST_FIT:
        assert chosen.capacity_bytes == min(each.capacity_bytes for each in fitting)
