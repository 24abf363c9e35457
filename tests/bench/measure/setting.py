"""What a figure module is given: where to work, how much, and with which programs."""

from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Setting:
    """``scratch`` is an empty directory on a disk, ``memory`` one on a tmpfs. Both vanish later."""

    quick: bool
    program: Path  # dmsnap
    scratch: Path
    memory: Path

    def rounds(self, full: int, quick: int = 2) -> int:
        """How often each contestant is measured."""
        return quick if self.quick else full

    def size(self, full: int, quick: int) -> int:
        """How large a volume is, in bytes."""
        return quick if self.quick else full

    @property
    def python(self) -> Path:
        """The interpreter that has dmsnap."""
        return self.program.with_name("python")
