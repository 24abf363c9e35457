"""This host, and another one that dmsnap may believe to run on."""

from uuid import UUID

import pytest

from dmsnap.host import kernel

HERE, THERE = UUID(int=0x1234 << 64), UUID(int=0x5678 << 64)


def become(monkeypatch: pytest.MonkeyPatch, host: UUID) -> None:
    """From now on this is the host with that machine-id."""
    monkeypatch.setattr(kernel, "machine_id", lambda: host)
    monkeypatch.setattr(kernel, "host_name", lambda: f"host-{host.hex[12:16]}")
