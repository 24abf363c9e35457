"""Devices that somebody else resumes at the same moment."""

from types import SimpleNamespace

import pytest

from dmsnap.errors import OperatingSystemError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Era, Linear, Table, single
from dmsnap.units import MIB

ERA = single(64 * MIB, Era(7, 8, 65536))
FOREIGN = single(64 * MIB, Linear(8, 0))


class Front:
    """Refuses to be resumed: it is not suspended any more, or its table does not let it."""

    def __init__(self, table: Table, *, faster: bool) -> None:
        self.table = table
        self.faster = faster
        self.suspended = True

    def resume(self, _name: str, **_how: object) -> None:
        if self.faster or self.table == ERA:
            self.suspended = not self.faster
            raise OperatingSystemError("cannot resume", errnum=22 if self.faster else 5)
        self.suspended = False

    def load(self, _name: str, table: Table) -> None:
        self.table = table

    def installed(self, monkeypatch: pytest.MonkeyPatch) -> "Front":
        monkeypatch.setattr(dm, "resume", self.resume)
        monkeypatch.setattr(dm, "load", self.load)
        monkeypatch.setattr(dm, "live_table", lambda _name: self.table)
        monkeypatch.setattr(dm, "existing", lambda _: SimpleNamespace(suspended=self.suspended))
        return self


@pytest.mark.parametrize("table", [ERA, FOREIGN])
def test_a_watchdog_that_was_faster_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    front = Front(table, faster=True).installed(monkeypatch)
    assert not dm.resume_past_era("front")
    assert (front.suspended, front.table) == (False, table)


def test_dm_era_that_refuses_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front(ERA, faster=False).installed(monkeypatch)
    assert dm.resume_past_era("front")
    assert (front.suspended, front.table) == (False, single(64 * MIB, Linear(8, 0)))
