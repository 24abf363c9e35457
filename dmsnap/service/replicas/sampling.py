"""Samples of a volume's blocks, and what they can promise. Pure arithmetic."""

import random
from dataclasses import dataclass

from dmsnap._native.extent_set import ExtentSet

# The promise is about one wrong block in so many.
ONE_IN = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """``blocks`` could have been chosen, ``sampled`` of them were: ``extents`` are their bytes."""

    extents: ExtentSet
    blocks: int
    sampled: int

    @property
    def detection_probability(self) -> float:
        """With which one wrong block in :data:`ONE_IN`, or a single one among fewer, is found."""
        return detection(self.blocks, self.sampled, wrong_blocks(self.blocks))


def wrong_blocks(blocks: int) -> int:
    """One in :data:`ONE_IN`, but at least one."""
    return max(1, blocks // ONE_IN)


def detection(blocks: int, sampled: int, wrong: int) -> float:
    """The probability that at least one of ``wrong`` blocks is among ``sampled`` of ``blocks``.

    Hypergeometric: 1 - C(blocks - wrong, sampled) / C(blocks, sampled).
    """
    if not 0 <= sampled <= blocks or not 0 <= wrong <= blocks:
        return float(blocks == 0)
    missed = 1.0
    for found in range(wrong):
        missed *= max(blocks - sampled - found, 0) / (blocks - found)
    return 1.0 - missed


def everything(comparable: ExtentSet, block_bytes: int) -> Sample:
    """No sample: all of it."""
    blocks = _blocks(comparable, block_bytes).bytes // block_bytes
    return Sample(comparable, blocks, blocks)


def draw(comparable: ExtentSet, block_bytes: int, sampled: int, generator: random.Random) -> Sample:
    """Choose blocks uniformly and without repetition among those that have comparable bytes.

    Of a block that is comparable in part, that part is compared.
    """
    whole = _blocks(comparable, block_bytes)
    blocks = whole.bytes // block_bytes
    if sampled >= blocks:
        return Sample(comparable, blocks, blocks)
    chosen = ExtentSet()
    runs = whole.pairs()
    offset = first = end = 0  # of the run that holds the blocks numbered first to end
    for number in sorted(generator.sample(range(blocks), sampled)):
        while number >= end:
            offset, length = next(runs)
            first, end = end, end + length // block_bytes
        chosen.add(offset + (number - first) * block_bytes, block_bytes)
    return Sample(chosen.within(comparable), blocks, sampled)


def _blocks(comparable: ExtentSet, block_bytes: int) -> ExtentSet:
    whole = ExtentSet()
    whole.merge(comparable)
    whole.align(block_bytes)
    return whole
