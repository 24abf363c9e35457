"""A sync whose audit finds a difference: in which order that is made known."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogue_samples import a_volume

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import AuditError, OperatingSystemError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.replicas import audit
from dmsnap.service.replicas.audit import Audit
from dmsnap.service.replicas.synchronisation import Sync
from dmsnap.service.session import Session
from dmsnap.units import MIB


@pytest.mark.parametrize("label_fails", [False, True])
def test_the_label_says_that_it_is_no_point_before_it_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, label_fails: bool
) -> None:
    """It is recorded, and told, also where the label cannot be written."""
    told: list[str] = []

    def leave_point() -> None:
        told.append("label")
        if label_fails:
            raise OperatingSystemError("input/output error")

    @contextmanager
    def sides(_sync: Sync) -> Iterator[tuple[int, Any]]:
        yield 0, SimpleNamespace(leave_point=leave_point)

    monkeypatch.setattr(Sync, "_sides", sides)
    monkeypatch.setattr(Sync, "_require_valid", lambda _: None)
    monkeypatch.setattr(Session, "distrust", lambda *_: told.append("catalogue"))
    monkeypatch.setattr(audit, "differences", lambda *_: (MIB, ExtentSet.whole(4096)))
    with Catalogue.open(tmp_path / "catalogue.db") as catalogue:
        session = Session(Configuration(run_directory=tmp_path), catalogue)
        running: Any = Sync(session, replace(a_volume(), size_bytes=MIB), audit=Audit.FULL)
        running.undo = SimpleNamespace(different=ExtentSet())
        with pytest.raises(AuditError, match="4096 bytes"):
            running._audit()
    assert told == ["label", "catalogue"]
