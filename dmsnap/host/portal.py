"""Where iSCSI targets listen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Portal:
    """Where an iSCSI target listens; ``address`` is numeric, so that no name server is needed."""

    address: str
    port: int = 3260

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"
