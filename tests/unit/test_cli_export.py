"""The commands of exports, over a service that remembers what it was asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from dmsnap.catalogue.export import ExportKind
from dmsnap.cli import program
from dmsnap.errors import ExitCode
from dmsnap.service.exports import export, export_list, export_restore, lun_swap, unexport
from dmsnap.service.exports.export import ExportRequest
from dmsnap.service.exports.export_list import ExportView
from dmsnap.service.exports.export_restore import RestoreResult
from dmsnap.service.session import Session

SERIAL = UUID("3f2a0000-0000-4000-8000-000000000001")
INITIATOR = "iqn.2026-01.org.example:there"
TO = ("--portal", "192.0.2.1", "--initiator", INITIATOR)
EXPORT = ExportView(
    "srv", ExportKind.FRONT, "srv", None, "iqn.2026-01.local.dmsnap:srv-3f2a0000", 0,
    "192.0.2.1:3260", (INITIATOR,), False, SERIAL, (), None,
)  # fmt: skip
BROKEN = replace(EXPORT, problem="srv is not exported as LUN 0 of it")

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Calls:
    @contextmanager
    def opened() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace()

    monkeypatch.setattr(Session, "open", opened)
    made: Calls = []

    def answer(module: object, name: str, value: object) -> None:
        def function(_session: object, *arguments: Any, **options: Any) -> object:
            made.append((arguments, options))
            return value

        monkeypatch.setattr(module, name, function)

    answer(export, "export", EXPORT)
    answer(export_list, "list_exports", [EXPORT, BROKEN])
    answer(unexport, "unexport", None)
    answer(lun_swap, "swap_lun", EXPORT)
    failed = RestoreResult("b", "iqn.b", "192.0.2.1 is no address of this host", ExitCode.NOT_FOUND)
    answer(export_restore, "restore", [RestoreResult("a", "iqn.a", None, ExitCode.OK), failed])
    would = RestoreResult("b", "iqn.b", None, ExitCode.OK, ("listen at 192.0.2.1:3260",))
    answer(export_restore, "forecast", [would])
    return made


@pytest.mark.parametrize(
    ("portal", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 3260),
        ("192.0.2.1:3261", "192.0.2.1", 3261),
        ("[2001:db8::1]", "2001:db8::1", 3260),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
    ],
)
def test_what_is_asked_for(calls: Calls, portal: str, address: str, port: int) -> None:
    words = ("export", "srv", "--portal", portal, "--initiator", "a", "--initiator", "b")
    assert program.main((*words, "--read-only")) == 0
    assert calls == [((ExportRequest("srv", address, port, ("a", "b"), True),), {"dry_run": False})]


@pytest.mark.parametrize(
    "portal", ["192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", "2001:db8::1"]
)
def test_a_portal_that_is_none(
    calls: Calls, capsys: pytest.CaptureFixture[str], portal: str
) -> None:
    words = ("export", "srv", "--portal", portal, "--initiator", INITIATOR)
    assert program.main(words) == ExitCode.USAGE
    assert "--portal" in capsys.readouterr().err
    assert calls == []


def test_what_is_shown(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(("export", "srv", *TO)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"srv is LUN 0 of {EXPORT.target} at 192.0.2.1:3260"
    assert f"iscsiadm -m node -T {EXPORT.target} -p 192.0.2.1:3260 --login" in second
    assert program.main(("export", "srv", *TO, "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {
        "exported", "kind", "volume", "point", "target", "lun", "portal", "initiators",
        "read_only", "serial", "sessions", "problem",
    }  # fmt: skip
    assert program.main(("lun", "swap", "srv", "--to", "3f2a")) == 0
    assert "its serial number stays" in capsys.readouterr().out
    assert program.main(("unexport", "srv", "--force")) == 0
    assert capsys.readouterr().out == "srv is not exported any more\n"
    assert calls[-1] == (("srv",), {"force": True, "dry_run": False})


def test_what_cannot_be_used_is_in_the_exit_code(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(("export", "list")) == ExitCode.UNHEALTHY
    assert "srv is not exported as LUN 0 of it: dmsnap export restore" in capsys.readouterr().out
    assert program.main(("export", "restore")) == ExitCode.NOT_FOUND
    assert capsys.readouterr().out.splitlines() == [
        "a is exported by iqn.a",
        "192.0.2.1 is no address of this host",
    ]


def test_what_would_be_published_again(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(("export", "restore", "--dry-run")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "b, exported by iqn.b: this would be done",
        "  1. listen at 192.0.2.1:3260",
    ]
    assert program.main(("export", "restore", "--dry-run", "--json")) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["would"] == ["listen at 192.0.2.1:3260"]
    assert calls == [((), {}), ((), {})]
