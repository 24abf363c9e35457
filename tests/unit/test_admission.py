"""What is chosen for a volume that is to be protected."""

import pytest

from dmsnap.service.volumes.admission import MAX_BLOCKS, block_bytes_for
from dmsnap.units import GIB, KIB, MIB, TIB


@pytest.mark.parametrize(
    ("size_bytes", "block_bytes"),
    [
        (MIB, 64 * KIB),
        (64 * GIB, 64 * KIB),
        (TIB, 64 * KIB),
        (TIB + 512, 128 * KIB),
        (4 * TIB, 256 * KIB),
        (16 * TIB, MIB),
    ],
)
def test_blocks_grow_where_there_would_be_too_many(size_bytes: int, block_bytes: int) -> None:
    assert block_bytes_for(size_bytes) == block_bytes
    assert size_bytes <= block_bytes * MAX_BLOCKS
