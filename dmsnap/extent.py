"""Byte ranges."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """``length_bytes`` bytes from ``offset_bytes``; never empty, never negative."""

    offset_bytes: int
    length_bytes: int

    def __post_init__(self) -> None:
        if self.offset_bytes < 0 or self.length_bytes <= 0:
            raise ValueError(f"not an extent: {self.length_bytes} bytes at {self.offset_bytes}")

    @property
    def end_bytes(self) -> int:
        """The first byte behind it."""
        return self.offset_bytes + self.length_bytes
