"""Every command, over a service that remembers what it was asked: what is asked, what is shown."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from dmsnap.catalogue.model import VolumeState
from dmsnap.cli import program
from dmsnap.cli.words import RESERVED_NAMES
from dmsnap.errors import ExitCode
from dmsnap.service import (
    admission,
    assemble,
    browse,
    extension,
    from_label,
    hydrate,
    point,
    promotion,
    protect,
    revert,
    status,
    swap,
    sync,
    unprotect,
    verify,
)
from dmsnap.service.audit import Audit, AuditResult
from dmsnap.service.browse import BrowseResult
from dmsnap.service.extension import ExtendResult
from dmsnap.service.hydrate import HydrateRequest, HydrateResult
from dmsnap.service.journal import Plan, Step
from dmsnap.service.label_admission import LabelRequest
from dmsnap.service.point import Place, PointView
from dmsnap.service.protect import ProtectResult
from dmsnap.service.session import Session
from dmsnap.service.status import LivePointStatus, ReplicaStatus, VolumeStatus
from dmsnap.service.sync import SyncResult
from dmsnap.service.trial import SwapResult
from dmsnap.service.verify import VerifyResult
from dmsnap.tracking.choice import Tracker
from dmsnap.units import GIB, MIB

POINT = UUID("3f2a0000-0000-4000-8000-000000000001")
OTHER = UUID("77770000-0000-4000-8000-000000000002")
SECOND_NS = 1_790_000_000_000_000_000

STEPS = {"track": 0.01, "apply": 0.5}
PLAN = Plan("sync", (), [Step("a", "find it", lambda: None), Step("b", "copy it", lambda: None)])

PROTECTED = ProtectResult(
    "srv", "/dev/mapper/srv", "/dev/sdb", "/dev/sdc", GIB, POINT, 256 * MIB, 512 * MIB, 256 * MIB,
    None, 64 * MIB, 0.0034, 7.25, STEPS,
)  # fmt: skip
SYNCED = SyncResult(
    "srv", POINT, Tracker.COMPARE, "the stack was built anew", 3 * MIB, 2 * MIB, MIB, 0.0034, 1.5,
    AuditResult(Audit.SAMPLE, 64 * MIB, 0, 8 * MIB, 12_288, 1024, 0.0833), STEPS,
)  # fmt: skip
VERIFIED = VerifyResult(
    "srv", POINT, 3 * MIB, 0.0034, 1.5, AuditResult(Audit.FULL, GIB, 0, 0, 16384, 16384, 1.0), STEPS
)
SWAP = {"to": None, "kill": False, "fail_primary": False, "force": False}
SWAPPED = SwapResult("srv", VolumeState.TRIAL, POINT, STEPS, 0.51)
MOVED = HydrateResult(
    "srv", "/dev/sdd", "/dev/sdb", GIB, 0, GIB + MIB, 0, 2, MIB, 0.034, 7.5, STEPS
)
LIVE = PointView(
    POINT, "srv", SECOND_NS, True, 0.0034,
    (Place("live", "/dev/mapper/x"), Place("history", "/dev/sdc", 3)), None,
)  # fmt: skip
LOST = PointView(OTHER, "srv", SECOND_NS, False, None, (), "the kernel reports it as Invalid")
STATUS = VolumeStatus(
    "srv", VolumeState.PROTECTED, "/dev/mapper/srv", "/dev/sdb", GIB, ("/srv",), None, (),
    ReplicaStatus("/dev/sdc", "consistent", str(POINT), "2026-09-21T14:13:20Z", 7300.0, 4, GIB, 9),
    (LivePointStatus(str(POINT), "2026-09-21T14:13:20Z", "OK", MIB, GIB),), (),
)  # fmt: skip


class Service:
    """Stands for the functions of the service; remembers how each was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.monkeypatch = monkeypatch

    def answers(self, module: object, name: str, answer: object) -> None:
        def function(session: object, *arguments: Any, **options: Any) -> object:
            assert session is SESSION
            self.calls.append((name, arguments, options))
            return PLAN if options.get("dry_run") else answer

        self.monkeypatch.setattr(module, name, function)


SESSION = SimpleNamespace(configuration=SimpleNamespace(default_store="/var/lib/dmsnap/store"))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    @contextmanager
    def opened() -> Iterator[SimpleNamespace]:
        yield SESSION

    monkeypatch.setattr(Session, "open", opened)
    fake = Service(monkeypatch)
    for module, name, answer in (
        (protect, "protect", PROTECTED), (unprotect, "unprotect", None),
        (assemble, "assemble", None), (sync, "sync", SYNCED), (verify, "verify", VERIFIED),
        (status, "status", [STATUS]),
        (point, "create", [LIVE]), (point, "list_points", [LIVE, LOST]), (point, "find", LIVE),
        (point, "delete", None), (browse, "unmount_point", None),
        (browse, "mount_point", BrowseResult(POINT, "srv", "/run/dmsnap/points/3f2a")),
        (hydrate, "hydrate", MOVED), (hydrate, "give_up", None),
        (swap, "swap", SWAPPED), (revert, "revert", SWAPPED), (promotion, "commit", SWAPPED),
        (from_label, "recover", SWAPPED),
        (extension, "extend", ExtendResult("srv", 2**20, 2**30)),
    ):  # fmt: skip
        fake.answers(module, name, answer)
    return fake


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end well; returns what it printed."""

    def run(*arguments: str, expected: int = 0) -> str:
        assert program.main(arguments) == expected
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


Shown = Callable[..., str]

PROTECT = ("protect", "/dev/sdb", "--name", "srv", "--recovery", "/dev/sdc")


def test_protect_asks_for_what_was_written(service: Service, shown: Shown) -> None:
    shown(
        *PROTECT, "--store", "vg0", "--block-size", "1MiB", "--chunk", "16K", "--overwrite",
        "--cow-percent", "7", "--full", "--unit", "db.service", "--unit", "web.service",
    )  # fmt: skip
    ((_, (request,), options),) = service.calls
    assert request == admission.ProtectRequest(
        device=Path("/dev/sdb"), name="srv", recovery="/dev/sdc", store="vg0",
        block_bytes=MIB, chunk_bytes=16384, overwrite=True, cow_percent=7, full=True,
        units=("db.service", "web.service"),
    )  # fmt: skip
    assert options == {"dry_run": False, "progress": None}


@pytest.mark.parametrize(
    ("words", "store"),
    [
        ((), "/var/lib/dmsnap/store"),
        (("--store", "./points"), str(Path.cwd() / "points")),
        (("--store", "/a/../b"), "/b"),
        (("--store", "vg-0"), "vg-0"),
    ],
)
def test_a_store_with_a_slash_is_a_directory(
    service: Service, shown: Shown, words: tuple[str, ...], store: str
) -> None:
    shown(*PROTECT, *words)
    ((_, (request,), _),) = service.calls
    assert request.store == store
    assert (request.block_bytes, request.chunk_bytes) == (0, 4096)
    assert request.cow_percent == 0


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (
            ("sync", "srv"),
            (
                "sync",
                ("srv",),
                {"audit": Audit.NONE, "cow_percent": 0, "bandwidth": 0, "force": False},
            ),
        ),
        (
            (
                "sync",
                "srv",
                "--audit",
                "full",
                "--cow-percent",
                "9",
                "--bandwidth",
                "2MiB",
                "--force",
            ),
            (
                "sync",
                ("srv",),
                {"audit": Audit.FULL, "cow_percent": 9, "bandwidth": 2 * MIB, "force": True},
            ),
        ),
        (
            ("verify", "srv"),
            ("verify", ("srv",), {"kind": Audit.SAMPLE, "sample_bytes": GIB, "cow_percent": 0}),
        ),
        (
            ("verify", "--full", "srv", "--sample", "64KiB", "--cow-percent", "9"),
            ("verify", ("srv",), {"kind": Audit.FULL, "sample_bytes": 65536, "cow_percent": 9}),
        ),
        (("swap", "srv"), ("swap", ("srv",), SWAP)),
        (("swap", "srv", "--trial"), ("swap", ("srv",), SWAP)),
        (("swap", "--to", "3f2a", "srv"), ("swap", ("srv",), SWAP | {"to": "3f2a"})),
        (("swap", "--kill", "srv"), ("swap", ("srv",), SWAP | {"kill": True})),
        (("swap", "--fail-primary", "srv"), ("swap", ("srv",), SWAP | {"fail_primary": True})),
        (("swap", "--force", "srv"), ("swap", ("srv",), SWAP | {"force": True})),
        (
            ("swap", "--from-label", "/dev/sdc"),
            ("recover", (LabelRequest(Path("/dev/sdc"), "/var/lib/dmsnap/store"),), {}),
        ),
        (
            (
                "swap",
                "--from-label",
                "/dev/sdc",
                "--to",
                "3f2a",
                "--mount",
                "/mnt",
                "--store",
                "/a/../b",
                "--force",
            ),
            ("recover", (LabelRequest(Path("/dev/sdc"), "/b", "3f2a", Path("/mnt"), True),), {}),
        ),
        (("swap", "--", "revert"), ("swap", ("revert",), SWAP)),
        (("swap", "revert", "srv"), ("revert", ("srv",), {"kill": False})),
        (("swap", "revert", "revert", "--kill"), ("revert", ("revert",), {"kill": True})),
        (("--json", "swap", "--json", "revert", "srv"), ("revert", ("srv",), {"kill": False})),
        (("swap", "extend", "srv"), ("extend", ("srv",), {"size_bytes": None})),
        (
            ("swap", "extend", "srv", "--size", "1GiB"),
            ("extend", ("srv",), {"size_bytes": 2**30}),
        ),
        (("swap", "commit", "srv"), ("commit", ("srv",), {"drop_points": False})),
        (("swap", "commit", "srv", "--drop-points"), ("commit", ("srv",), {"drop_points": True})),
        (("unprotect", "srv"), ("unprotect", ("srv",), {"forget": False})),
        (("unprotect", "srv", "--forget"), ("unprotect", ("srv",), {"forget": True})),
        (("assemble", "srv"), ("assemble", ("srv",), {"at_boot": False})),
        (("assemble", "--boot", "srv"), ("assemble", ("srv",), {"at_boot": True})),
        (
            ("hydrate", "srv", "--onto", "/dev/sdd", "--bandwidth", "2MiB"),
            ("hydrate", ("srv", HydrateRequest(Path("/dev/sdd"), 2 * MIB)), {}),
        ),
        (
            ("hydrate", "srv", "--overwrite", "--drop-points"),
            ("hydrate", ("srv", HydrateRequest(None, 0, True, True)), {}),
        ),
        (("hydrate", "srv", "--abandon"), ("give_up", ("srv",), {})),
        (("status",), ("status", ((),), {})),
        (("status", "a", "b"), ("status", (("a", "b"),), {})),
        (
            ("point", "create", "a", "b", "--keep"),
            ("create", (("a", "b"),), {"keep": True, "cow_percent": 0}),
        ),
        (("point", "list"), ("list_points", ((),), {})),
        (("point", "list", "a"), ("list_points", (("a",),), {})),
        (("point", "show", "3f2a"), ("find", ("3f2a",), {})),
        (("point", "delete", "3f2a"), ("delete", ("3f2a",), {})),
        (("point", "mount", "3f2a"), ("mount_point", ("3f2a", None), {})),
        (("point", "mount", "3f2a", "m"), ("mount_point", ("3f2a", Path.cwd() / "m"), {})),
        (("point", "umount", "3f2a"), ("unmount_point", ("3f2a",), {})),
    ],
)
def test_a_command_asks_for_what_was_written(
    service: Service,
    shown: Shown,
    words: tuple[str, ...],
    called: tuple[str, tuple[Any, ...], dict[str, Any]],
) -> None:
    shown(*words)
    ((name, arguments, options),) = service.calls
    options.pop("progress", None)
    assert options.pop("dry_run", False) is False
    assert (name, arguments, options) == called


CHANGING = (
    PROTECT, ("sync", "srv"), ("verify", "srv"), ("swap", "srv"), ("swap", "revert", "srv"),
    ("swap", "commit", "srv"), ("unprotect", "srv"), ("assemble", "srv"), ("hydrate", "srv"),
    ("point", "create", "srv"), ("point", "delete", "3f2a"), ("point", "mount", "3f2a"),
    ("point", "umount", "3f2a"),
)  # fmt: skip


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_dry_run_prints_the_plan(service: Service, shown: Shown, words: tuple[str, ...]) -> None:
    assert shown(*words, "--dry-run") == "sync would:\n  1. find it\n  2. copy it\n"
    assert json.loads(shown(*words, "--dry-run", "--json")) == {
        "operation": "sync",
        "steps": ["find it", "copy it"],
    }
    assert all(options["dry_run"] is True for _, _, options in service.calls)


def test_a_sync_as_json(service: Service, shown: Shown) -> None:
    assert json.loads(shown("sync", "srv", "--json")) == {
        "volume": "srv",
        "point": str(POINT),
        "tracker": "compare",
        "reason": "the stack was built anew",
        "bytes_dirty": 3 * MIB,
        "bytes_compared": 2 * MIB,
        "bytes_written": MIB,
        "window_seconds": 0.0034,
        "seconds": 1.5,
        "audit": {
            "kind": "sample",
            "bytes_compared": 64 * MIB,
            "bytes_different": 0,
            "bytes_skipped": 8 * MIB,
            "blocks": 12_288,
            "blocks_compared": 1024,
            "detection_probability": 0.0833,
        },
        "steps": STEPS,
    }


def test_the_members_of_results(service: Service, shown: Shown) -> None:
    protected = json.loads(shown(*PROTECT, "--json"))
    assert set(protected) == {
        "volume", "front", "device", "recovery", "size_bytes", "point", "bytes_written",
        "bytes_zero", "bytes_skipped", "full_reason", "history_bytes", "window_seconds",
        "seconds", "steps", "live",
    }  # fmt: skip
    assert json.loads(shown("swap", "srv", "--json")) == {
        "volume": "srv", "state": "trial", "point": str(POINT), "steps": STEPS, "seconds": 0.51,
    }  # fmt: skip
    (listed, lost) = json.loads(shown("point", "list", "--json"))
    assert listed == {
        "id": str(POINT),
        "volume": "srv",
        "created_ns": SECOND_NS,
        "created": "2026-09-21T14:13:20Z",
        "keep": True,
        "window_seconds": 0.0034,
        "places": [
            {"kind": "live", "device": "/dev/mapper/x", "steps_back": 0},
            {"kind": "history", "device": "/dev/sdc", "steps_back": 3},
        ],
        "invalid_reason": None,
    }
    assert lost["places"] == []
    assert json.loads(shown("point", "show", "3f2a", "--json")) == listed
    assert json.loads(shown("point", "create", "srv", "--json")) == [listed]
    assert json.loads(shown("point", "mount", "3f2a", "--json")) == {
        "point": str(POINT), "volume": "srv", "mount_point": "/run/dmsnap/points/3f2a",
    }  # fmt: skip
    for words in (("unprotect", "srv"), ("assemble", "srv"), ("point", "delete", "3f2a")):
        assert json.loads(shown(*words, "--json"))["operation"] in " ".join(words)


def test_results_for_people(service: Service, shown: Shown) -> None:
    assert shown("sync", "srv").splitlines() == [
        f"srv: the recovery volume holds point {POINT}",
        "3 MiB dirty by compare (the stack was built anew), 2 MiB compared, 1 MiB written, "
        "window 3.4 ms, 1.5 s in all",
        "audit (sample): 1024 of 12288 blocks, 64 MiB compared, all equal",
        "8 MiB were not compared: the first copy left them out, as the file system did not use "
        "them",
        "one wrong block in 10000 would have been found with a probability of 8.33 %",
    ]
    assert shown("verify", "srv").splitlines() == [
        f"srv: the recovery volume holds point {POINT}",
        "3 MiB were written since and not compared, window 3.4 ms, 1.5 s in all",
        "audit (full): 16384 of 16384 blocks, 1 GiB compared, all equal",
    ]
    assert shown("point", "list").splitlines() == [
        f"POINT{'':33}VOLUME  CREATED               KEEP  RECOVERABLE FROM",
        f"{POINT}  srv     2026-09-21T14:13:20Z  keep  live, history (3 back)",
        f"{OTHER}  srv     2026-09-21T14:13:20Z        nowhere: the kernel reports it as Invalid",
    ]
    assert shown(*PROTECT).endswith("256 MiB that its file system does not use were left out\n")
    assert shown(*PROTECT).startswith("/dev/sdb is protected as srv: use /dev/mapper/srv from now")
    assert "apply     0.500" in shown("swap", "srv")
    assert "is mounted on /run/dmsnap/points/3f2a" in shown("point", "mount", "3f2a")
    assert shown("unprotect", "srv") == "srv is not protected any more\n"
    assert shown("assemble", "srv") == "/dev/mapper/srv is as it should be\n"
    assert shown("point", "umount", "3f2a") == "point 3f2a is unmounted\n"


def test_nothing_to_show_is_said(service: Service, shown: Shown) -> None:
    service.answers(status, "status", [])
    service.answers(point, "list_points", [])
    assert shown("status") == "no volume is protected\n"
    assert shown("point", "list") == "there are no points\n"
    assert json.loads(shown("status", "--json")) == []


def test_status_shows_the_age_and_ends_well(service: Service, shown: Shown) -> None:
    headings, row = shown("status").splitlines()
    assert headings.split() == [
        "VOLUME", "STATE", "SIZE", "MOUNTED", "ON", "RECOVERY", "POINT", "AGE", "EARLIER", "LIVE",
    ]  # fmt: skip
    assert row.split() == [
        "srv", "protected", "1", "GiB", "/srv", "3f2a0000", "2", "h", "4", "1",
    ]  # fmt: skip
    (volume,) = json.loads(shown("status", "--json"))
    assert volume["replica"]["history_points"] == 4
    assert volume["problems"] == []


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_status_tells_of_problems_by_its_exit_code(
    service: Service, shown: Shown, flags: tuple[str, ...]
) -> None:
    broken = VolumeStatus(
        "data", VolumeState.PROTECTED, "/dev/mapper/data", "/dev/sdd", GIB, (), None, (), None, (),
        ("dmsnap-data-origin-1 is missing",),
    )  # fmt: skip
    service.answers(status, "status", [STATUS, broken])
    shown_text = shown("status", *flags, expected=ExitCode.UNHEALTHY)
    assert "dmsnap-data-origin-1 is missing" in shown_text


def test_the_service_reserves_the_words_that_the_command_line_does() -> None:
    assert set(RESERVED_NAMES) == set(admission.RESERVED)
