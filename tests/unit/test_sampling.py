"""Samples of blocks: uniform, without repetition, and with the promise they state."""

import random
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import comb, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap._native.extent_set import ExtentSet
from dmsnap.extent import Extent
from dmsnap.service.replicas import sampling

BLOCK = 65536
PAGE = 4096

places = st.integers(0, 400).map(lambda page: page * PAGE)
extent_sets = st.lists(
    st.tuples(places, st.integers(1, 60)).map(lambda pair: Extent(pair[0], pair[1] * PAGE))
).map(ExtentSet.from_extents)


def blocks_of(extents: ExtentSet) -> set[int]:
    return {
        block
        for extent in extents
        for block in range(extent.offset_bytes // BLOCK, -(-extent.end_bytes // BLOCK))
    }


@given(extent_sets, st.integers(0, 40), st.integers(0, 2**32))
def test_a_sample_is_of_whole_comparable_parts_of_blocks(
    comparable: ExtentSet, wanted: int, seed: int
) -> None:
    sample = sampling.draw(comparable, BLOCK, wanted, random.Random(seed))
    everywhere = blocks_of(comparable)
    chosen = blocks_of(sample.extents)
    assert sample.blocks == len(everywhere)
    assert sample.sampled == len(chosen) == min(wanted, len(everywhere))
    inside = ExtentSet.from_extents(Extent(block * BLOCK, BLOCK) for block in chosen)
    assert sample.extents == comparable.within(inside)


@given(extent_sets)
def test_everything_is_everything(comparable: ExtentSet) -> None:
    sample = sampling.everything(comparable, BLOCK)
    assert sample.extents == comparable
    assert sample.blocks == sample.sampled == len(blocks_of(comparable))
    assert sample.detection_probability == 1.0


def test_every_block_is_chosen_equally_often() -> None:
    """With holes between them and one block that is comparable in part."""
    comparable = ExtentSet.from_extents(
        [Extent(0, 5 * BLOCK), Extent(9 * BLOCK, 12 * BLOCK), Extent(30 * BLOCK + PAGE, PAGE)]
    )
    draws, wanted, blocks = 4000, 6, 18
    generator = random.Random(1)
    counts: Counter[int] = Counter()
    for _ in range(draws):
        counts.update(blocks_of(sampling.draw(comparable, BLOCK, wanted, generator).extents))
    assert set(counts) == blocks_of(comparable)
    expected = draws * wanted / blocks
    # 18 blocks, each within five standard deviations: chance fails one run in 100,000.
    deviation = sqrt(draws * wanted / blocks * (1 - wanted / blocks))
    assert all(abs(count - expected) < 5 * deviation for count in counts.values())


@given(st.integers(1, 60), st.data())
def test_the_probability_is_hypergeometric(blocks: int, data: st.DataObject) -> None:
    sampled = data.draw(st.integers(0, blocks))
    wrong = data.draw(st.integers(0, blocks))
    exact = 1 - Fraction(comb(blocks - wrong, sampled), comb(blocks, sampled))
    assert sampling.detection(blocks, sampled, wrong) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(
    ("blocks", "wrong"),
    [(0, 1), (1, 1), (9_999, 1), (10_000, 1), (20_000, 2), (268_435_456, 26843)],
)
def test_one_wrong_block_in_ten_thousand(blocks: int, wrong: int) -> None:
    assert sampling.wrong_blocks(blocks) == wrong
    rising = [sampling.detection(blocks, blocks * part // 8, wrong) for part in range(9)]
    assert rising[-1] == 1.0
    assert all(0 <= lower <= upper <= 1 for lower, upper in pairwise(rising))


@pytest.mark.parametrize(("sampled", "wrong"), [(5, 1), (20, 3), (50, 1), (90, 2)])
def test_wrong_blocks_are_found_as_often_as_promised(sampled: int, wrong: int) -> None:
    """Damage at fixed places, thousands of samples: the share that hits it is the probability."""
    comparable = ExtentSet.from_extents([Extent(0, 40 * BLOCK), Extent(100 * BLOCK, 60 * BLOCK)])
    damaged = set(random.Random(9).sample(sorted(blocks_of(comparable)), wrong))
    draws = 3000
    found = sum(
        bool(damaged & blocks_of(sampling.draw(comparable, BLOCK, sampled, generator).extents))
        for generator in map(random.Random, range(draws))
    )
    promised = sampling.detection(100, sampled, wrong)
    deviation = sqrt(promised * (1 - promised) / draws)
    assert abs(found / draws - promised) < 5 * deviation
