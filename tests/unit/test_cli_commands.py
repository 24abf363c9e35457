"""Every command, over a service that remembers what it was asked: what is asked, what is shown."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from dmsnap.catalogue.hook_runs import HookRecord
from dmsnap.catalogue.model import (
    Deletion,
    Identifier,
    IdentifierKind,
    JobStep,
    MountRecord,
    StepState,
    VolumeState,
)
from dmsnap.cli import program
from dmsnap.cli.words import RESERVED_NAMES
from dmsnap.errors import ExitCode
from dmsnap.host.inventory import VolumeKind
from dmsnap.policy.retention import Action, Rule
from dmsnap.service import jobs
from dmsnap.service.health import report, status
from dmsnap.service.health.recoverable import RecoverablePoint
from dmsnap.service.health.report import ReportResult
from dmsnap.service.health.status import LivePointStatus, ReplicaStatus, VolumeStatus
from dmsnap.service.hydrations import hydrate
from dmsnap.service.hydrations.hydrate import HydrateRequest, HydrateResult
from dmsnap.service.jobs import JobView
from dmsnap.service.journal import Plan, Step
from dmsnap.service.points import (
    browse,
    deletion,
    keeping,
    point,
    point_history,
    properties,
    prune,
)
from dmsnap.service.points.browse import BrowseResult
from dmsnap.service.points.point import Place, PointView
from dmsnap.service.points.properties import Change
from dmsnap.service.points.prune import PruneResult
from dmsnap.service.points.pruning import JudgedPoint, Side
from dmsnap.service.pools import pool
from dmsnap.service.pools.pool import PoolDevice, Standing
from dmsnap.service.pools.pool_choice import PassedOver
from dmsnap.service.records import catalogue_check
from dmsnap.service.records.catalogue_check import CheckResult
from dmsnap.service.replicas import sync, verify
from dmsnap.service.replicas.audit import Audit, AuditResult
from dmsnap.service.replicas.history_check import HistoryCheck
from dmsnap.service.replicas.sync import SyncResult
from dmsnap.service.replicas.verify import VerifyResult
from dmsnap.service.resizing import resize
from dmsnap.service.resizing.aim import ResizeRequest
from dmsnap.service.resizing.resize import ResizeResult
from dmsnap.service.session import Session
from dmsnap.service.swaps import extension, from_label, promotion, revert, swap
from dmsnap.service.swaps.extension import ExtendResult
from dmsnap.service.swaps.label_admission import LabelRequest
from dmsnap.service.swaps.trial import SwapResult
from dmsnap.service.volumes import admission, assemble, discovery, protect, recognition, unprotect
from dmsnap.service.volumes.discovery import Discovered, Discovery, Role
from dmsnap.service.volumes.protect import ProtectResult
from dmsnap.service.volumes.recognition import Recognised
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
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
    "srv", POINT, 3 * MIB, 0.0034, 1.5, AuditResult(Audit.FULL, GIB, 0, 0, 16384, 16384, 1.0),
    HistoryCheck(3, 1, 5 * MIB), STEPS,
)  # fmt: skip
VERIFY = {
    "kind": Audit.SAMPLE, "sample_bytes": GIB, "with_history": False, "cow_percent": 0,
}  # fmt: skip
UNSAID = {"expires_ns": None, "comment": None}
REVERT = {"kill": False, "give_up": False}
SWAP = {"to": None, "kill": False, "fail_primary": False, "force": False}
SWAPPED = SwapResult("srv", VolumeState.TRIAL, POINT, STEPS, 0.51)
MOVED = HydrateResult(
    "srv", "/dev/sdd", "/dev/sdb", GIB, 0, GIB + MIB, 0, 2, MIB, 0.034, 7.5, STEPS,
    AuditResult(Audit.SAMPLE, 64 * MIB, 0, 0, 16384, 1024, 0.0625),
)  # fmt: skip
RESIZED = ResizeResult(
    "srv", "/dev/sdb", GIB, 2 * GIB, "/dev/sdc", True, 1, (str(POINT),), None,
    "resize2fs /dev/mapper/srv", 7.5, STEPS,
)  # fmt: skip
FOUND = Discovered(
    "/dev/sdd", VolumeKind.DISK, Role.UNPROTECTED, None, "1234@", "ext4", "1234", GIB, ("/data",),
    SECOND_NS, True, True,
)  # fmt: skip
LIVE = PointView(
    POINT, "srv", SECOND_NS, True, 0.0034,
    (Place("live", "/dev/mapper/x"), Place("history", "/dev/sdc", 3)), None,
)  # fmt: skip
PRUNED = [
    PruneResult(
        "srv",
        {"primary": "days", "history": "days"},
        (
            JudgedPoint(POINT, SECOND_NS, Side.PRIMARY, Action.STAY, (Rule.KEEP,), "it is marked"),
            JudgedPoint(OTHER, SECOND_NS, Side.HISTORY, Action.MERGE, (), "no rule keeps it"),
        ),
    ),
    PruneResult("www", notes=("www is under no policy: it is left alone",)),
]
LOST = PointView(OTHER, "srv", SECOND_NS, False, None, (), "the kernel reports it as Invalid")
GONE = PointView(
    OTHER, "srv", SECOND_NS, False, None, (Place("live", "/store/x.img"),), None,
    Deletion(SECOND_NS + 10**9, "point delete", "alice"),
)  # fmt: skip
RECOGNISED = Recognised(
    "srv", OTHER, VolumeState.PROTECTED, SECOND_NS, "/dev/sdb", "/dev/sdc", POINT, GIB, "ext4",
    "3f1c", (MountRecord("/srv", "ext4", ("rw", "noatime")),), ("db.service",),
    (Identifier(IdentifierKind.LINK, "/dev/disk/by-id/x", SECOND_NS),),
)  # fmt: skip
STATUS = VolumeStatus(
    "srv", VolumeState.PROTECTED, "/dev/mapper/srv", "/dev/sdb", GIB, ("/srv",), None, (),
    ReplicaStatus("/dev/sdc", "consistent", str(POINT), "2026-09-21T14:13:20Z", 7300.0, 4, GIB, 9),
    (LivePointStatus(str(POINT), "2026-09-21T14:13:20Z", "OK", MIB, GIB),), (),
)  # fmt: skip

POOL = [
    PoolDevice("disks", "/dev/sdc", GIB, Standing.FREE),
    PoolDevice("disks", "/dev/sdd", 2 * GIB, Standing.TAKEN, "srv", "is its recovery volume"),
    PoolDevice("disks", "/dev/none", None, Standing.UNUSABLE, None, "is not there"),
]
JOB = JobView(
    7, "point create", {}, ("srv",), 99, SECOND_NS, SECOND_NS + 10**9, "undone", "stop failed",
    "presnapshot", (JobStep("presnapshot", StepState.UNDONE, None),),
    (
        HookRecord("stop", "presnapshot", "failed with 3", True, 0.25, "a\nb\n", "presnapshot"),
        HookRecord("go", "postsnapshot", "was not run: it is another's", True, None, "", "x"),
    ),
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
        (point, "create", [LIVE]), (point, "list_points", [LIVE, LOST]),
        (point_history, "show", LIVE), (point_history, "list_as_of", [GONE]),
        (recognition, "recorded", RECOGNISED),
        (catalogue_check, "check", CheckResult("/x/catalogue.db", (), ("data",))),
        (deletion, "delete", None), (keeping, "keep", LIVE),
        (properties, "change", LIVE), (prune, "prune", PRUNED),
        (browse, "unmount_point", None),
        (browse, "mount_point", BrowseResult(POINT, "srv", "/run/dmsnap/points/3f2a")),
        (hydrate, "hydrate", MOVED), (hydrate, "give_up", None),
        (resize, "resize", RESIZED), (discovery, "discover", Discovery((FOUND,), None, ())),
        (swap, "swap", SWAPPED), (revert, "revert", SWAPPED), (promotion, "commit", SWAPPED),
        (from_label, "recover", SWAPPED),
        (extension, "extend", ExtendResult("srv", 2**20, 2**30)),
        (pool, "list_devices", POOL), (jobs, "show", JOB),
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
        device=Path("/dev/sdb"), name="srv", store="vg0", block_bytes=MIB, chunk_bytes=16384,
        wanted=WantedRecovery("/dev/sdc", overwrite=True, cow_percent=7, full=True),
        units=("db.service", "web.service"),
    )  # fmt: skip
    assert options == {"dry_run": False, "progress": None}


@pytest.mark.parametrize(
    ("words", "store"),
    [
        ((), ""),
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
    assert request.wanted.cow_percent == 0


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (
            ("sync", "srv"),
            (
                "sync",
                ("srv",),
                {
                    "audit": Audit.NONE,
                    "cow_percent": 0,
                    "bandwidth": 0,
                    "source": None,
                    "force": False,
                },
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
                "--from",
                "3f1c",
                "--force",
            ),
            (
                "sync",
                ("srv",),
                {
                    "audit": Audit.FULL,
                    "cow_percent": 9,
                    "bandwidth": 2 * MIB,
                    "source": "3f1c",
                    "force": True,
                },
            ),
        ),
        (
            ("verify", "srv"),
            ("verify", ("srv",), VERIFY),
        ),
        (
            ("verify", "--full", "srv", "--sample", "64KiB", "--cow-percent", "9"),
            (
                "verify",
                ("srv",),
                VERIFY | {"kind": Audit.FULL, "sample_bytes": 65536, "cow_percent": 9},
            ),
        ),
        (("verify", "--history", "srv"), ("verify", ("srv",), VERIFY | {"with_history": True})),
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
        (("swap", "revert", "srv"), ("revert", ("srv",), REVERT)),
        (
            ("swap", "revert", "revert", "--kill"),
            ("revert", ("revert",), {"kill": True, "give_up": False}),
        ),
        (
            ("swap", "revert", "srv", "--give-up"),
            ("revert", ("srv",), {"kill": False, "give_up": True}),
        ),
        (("--json", "swap", "--json", "revert", "srv"), ("revert", ("srv",), REVERT)),
        (("swap", "extend", "srv"), ("extend", ("srv",), {"size_bytes": None})),
        (
            ("swap", "extend", "srv", "--size", "1GiB"),
            ("extend", ("srv",), {"size_bytes": 2**30}),
        ),
        (("swap", "commit", "srv"), ("commit", ("srv",), {"drop_points": False})),
        (("swap", "commit", "srv", "--drop-points"), ("commit", ("srv",), {"drop_points": True})),
        (("unprotect", "srv"), ("unprotect", ("srv",), {"forget": False, "give_up": False})),
        (
            ("unprotect", "srv", "--forget"),
            ("unprotect", ("srv",), {"forget": True, "give_up": False}),
        ),
        (
            ("unprotect", "srv", "--give-up"),
            ("unprotect", ("srv",), {"forget": False, "give_up": True}),
        ),
        (("assemble", "srv"), ("assemble", ("srv",), {"at_boot": False})),
        (("assemble", "--boot", "srv"), ("assemble", ("srv",), {"at_boot": True})),
        (
            ("hydrate", "srv", "--onto", "/dev/sdd", "--bandwidth", "2MiB"),
            ("hydrate", ("srv", HydrateRequest(Path("/dev/sdd"), 2 * MIB)), {}),
        ),
        (
            ("hydrate", "srv", "--audit", "full"),
            ("hydrate", ("srv", HydrateRequest(audit=Audit.FULL)), {}),
        ),
        (
            ("hydrate", "srv", "--overwrite", "--drop-points", "--force"),
            ("hydrate", ("srv", HydrateRequest(None, 0, True, True, True)), {}),
        ),
        (("hydrate", "srv", "--abandon"), ("give_up", ("srv",), {})),
        (("resize", "srv"), ("resize", ("srv", ResizeRequest()), {})),
        (
            ("resize", "srv", "--drop-points"),
            ("resize", ("srv", ResizeRequest(drop_points=True)), {}),
        ),
        (("resize", "srv", "--keep-size"), ("resize", ("srv", ResizeRequest(keep_size=True)), {})),
        (("discover",), ("discover", (), {})),
        (("status",), ("status", ((),), {})),
        (("status", "a", "b"), ("status", (("a", "b"),), {})),
        (
            ("point", "create", "a", "b", "--keep"),
            ("create", (("a", "b"),), {"keep": True, "cow_percent": 0} | UNSAID),
        ),
        (
            (
                "point",
                "create",
                "a",
                "--expires",
                "2026-09-21T14:13:20Z",
                "--comment",
                "before it",
            ),
            (
                "create",
                (("a",),),
                {
                    "keep": False,
                    "cow_percent": 0,
                    "expires_ns": SECOND_NS,
                    "comment": "before it",
                },
            ),
        ),
        (("point", "set", "3f2a", "--keep"), ("change", ("3f2a", Change(keep=True)), {})),
        (
            ("point", "set", "3f2a", "--no-keep", "--expires", "never", "--comment", ""),
            ("change", ("3f2a", Change(False, 0, "")), {}),
        ),
        (
            ("point", "set", "3f2a", "--expires", "2026-09-21T14:13:20Z"),
            ("change", ("3f2a", Change(expires_ns=SECOND_NS)), {}),
        ),
        (("point", "list"), ("list_points", ((),), {})),
        (("point", "list", "a"), ("list_points", (("a",),), {})),
        (("point", "show", "3f2a"), ("show", ("3f2a",), {})),
        (
            ("point", "list", "a", "--as-of", "2026-09-21T14:13:20Z"),
            ("list_as_of", (("a",), SECOND_NS), {}),
        ),
        (("catalogue", "show", "srv"), ("recorded", ("srv",), {})),
        (("catalogue", "check"), ("check", (), {})),
        (("point", "delete", "3f2a"), ("delete", ("3f2a",), {})),
        (("point", "keep", "3f2a"), ("keep", ("3f2a",), {"keep": True})),
        (("point", "keep", "3f2a", "--off"), ("keep", ("3f2a",), {"keep": False})),
        (("prune",), ("prune", ((),), {})),
        (("prune", "a", "b"), ("prune", (("a", "b"),), {})),
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
    ("resize", "srv"), ("point", "create", "srv"), ("point", "delete", "3f2a"),
    ("point", "mount", "3f2a"), ("point", "keep", "3f2a"),
    ("point", "set", "3f2a", "--keep"), ("point", "umount", "3f2a"),
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
        "copied": None,
        "given_up": [],
    }


def test_the_members_of_results(service: Service, shown: Shown) -> None:
    protected = json.loads(shown(*PROTECT, "--json"))
    assert set(protected) == {
        "volume", "front", "device", "recovery", "size_bytes", "point", "bytes_written",
        "bytes_zero", "bytes_skipped", "full_reason", "history_bytes", "window_seconds",
        "seconds", "steps", "live", "pool", "passed_over",
    }  # fmt: skip
    assert json.loads(shown("swap", "srv", "--json")) == {
        "volume": "srv", "state": "trial", "point": str(POINT), "steps": STEPS, "seconds": 0.51,
        "given_up": None,
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
        "deletion": None,
        "expires_ns": None,
        "comment": None,
    }
    assert lost["places"] == []
    assert json.loads(shown("point", "show", "3f2a", "--json")) == listed
    assert json.loads(shown("point", "create", "srv", "--json")) == [listed]
    assert json.loads(shown("point", "mount", "3f2a", "--json")) == {
        "point": str(POINT), "volume": "srv", "mount_point": "/run/dmsnap/points/3f2a",
    }  # fmt: skip
    for words in (("unprotect", "srv"), ("assemble", "srv"), ("point", "delete", "3f2a")):
        assert json.loads(shown(*words, "--json"))["operation"] in " ".join(words)


def test_the_devices_of_pools(service: Service, shown: Shown) -> None:
    assert shown("pool", "list", "disks").splitlines() == [
        "POOL   DEVICE      SIZE  STATE     VOLUME",
        "disks  /dev/sdc   1 GiB  free",
        "disks  /dev/sdd   2 GiB  taken     srv     is its recovery volume",
        "disks  /dev/none         unusable          is not there",
    ]
    assert service.calls == [("list_devices", (("disks",),), {})]
    listed = json.loads(shown("pool", "list", "--json"))
    assert listed[1] == {
        "pool": "disks", "device": "/dev/sdd", "size_bytes": 2 * GIB, "state": "taken",
        "volume": "srv", "reason": "is its recovery volume",
    }  # fmt: skip
    assert listed[2]["size_bytes"] is None
    service.answers(pool, "list_devices", [])
    assert shown("pool", "list") == "no pool is declared\n"


def test_a_pool_is_asked_for_in_place_of_a_device(service: Service, shown: Shown) -> None:
    over = (PassedOver("/dev/sde", "holds ext4"),)
    service.answers(protect, "protect", replace(PROTECTED, pool="disks", passed_over=over))
    text = shown("protect", "/dev/sdb", "--name", "srv", "--pool", "disks")
    assert "passed over in the pool disks: /dev/sde: holds ext4\n" in text
    ((_, (request,), _),) = service.calls
    assert (request.wanted.pool, request.wanted.recovery, request.store) == ("disks", "", "")


def test_what_hooks_wrote_is_shown_behind_the_steps(service: Service, shown: Shown) -> None:
    assert shown("job", "show", "7").splitlines()[-4:] == [
        "the presnapshot hook stop failed with 3 after 0.250 s",
        "  a",
        "  b",
        "the postsnapshot hook go was not run: it is another's",
    ]
    shown_job = json.loads(shown("job", "show", "7", "--json"))
    assert shown_job["hooks"][0] == {
        "hook": "stop", "phase": "presnapshot", "outcome": "failed with 3", "failed": True,
        "seconds": 0.25, "output": "a\nb\n", "step": "presnapshot",
    }  # fmt: skip


def test_what_went_and_why(service: Service, shown: Shown) -> None:
    table = [
        "srv, policy days: 1 of 2 points go",
        f"{'POINT':36}  {'CREATED':20}  {'WHAT':26}  WHY",
        f"{OTHER}  2026-09-21T14:13:20Z  merged away in the history  no rule keeps it",
        "www is under no policy: it is left alone",
    ]
    assert shown("prune").splitlines() == table
    (pruned, left) = json.loads(shown("prune", "--json"))
    assert pruned["points"][1] == {
        "point": str(OTHER), "created_ns": SECOND_NS, "created": "2026-09-21T14:13:20Z",
        "side": "history", "action": "merge", "rules": [], "reason": "no rule keeps it",
    }  # fmt: skip
    assert pruned["points"][0]["rules"] == ["keep"]
    assert left["notes"] == ["www is under no policy: it is left alone"]
    assert (left["error"], left["exit_code"]) == (None, "ok")


def test_what_would_go(monkeypatch: pytest.MonkeyPatch, service: Service, shown: Shown) -> None:
    monkeypatch.setattr(prune, "prune", lambda *_, **__: PRUNED)
    assert "would be merged away in the history" in shown("prune", "--dry-run")


def test_a_pruning_that_fails_ends_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    service: Service,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = replace(PRUNED[0], error="there is no room", exit_code=ExitCode.NO_SPACE)
    monkeypatch.setattr(prune, "prune", lambda *_, **__: [PRUNED[1], failed])
    assert program.main(["prune"]) == ExitCode.NO_SPACE
    assert "srv: there is no room" in capsys.readouterr().out


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
        "3 undo stores (5 MiB) hold what was written",
        "1 of them cannot say: they were written before there were seals",
    ]
    assert shown("point", "list").splitlines() == [
        f"POINT{'':33}VOLUME  CREATED               KEEP  RECOVERABLE FROM{'':27}COMMENT",
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


def test_what_was_said_of_a_point(
    monkeypatch: pytest.MonkeyPatch, service: Service, shown: Shown
) -> None:
    said = replace(LIVE, keep=False, expires_ns=SECOND_NS, comment="before [bold]it")
    monkeypatch.setattr(point, "list_points", lambda *_: [said])
    monkeypatch.setattr(properties, "change", lambda *_, **__: said)
    _, row = shown("point", "list").splitlines()
    assert "  until 2026-09-21T14:13:20Z  live, history (3 back)  before [bold]it" in row
    assert shown("point", "set", "3f2a", "--keep").splitlines()[4:6] == [
        "  expires  2026-09-21T14:13:20Z",
        "  comment  before [bold]it",
    ]
    assert json.loads(shown("point", "list", "--json"))[0]["expires"] == "2026-09-21T14:13:20Z"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing is to be changed"),
        (("--expires", "soon"), "is no time"),
        (("--expires", "9999-01-01"), "is no time"),
        (("--expires", "99999999w"), "is no time"),
    ],
)
def test_a_change_of_a_point_that_is_none(
    service: Service, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert program.main(["point", "set", "3f2a", *words]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert service.calls == []


def test_a_point_that_is_no_more(service: Service, shown: Shown) -> None:
    words = ("point", "list", "--as-of", "2026-09-21T14:13:20Z")
    _, row = shown(*words).splitlines()
    assert row.endswith("live; deleted 2026-09-21T14:13:21Z by alice: point delete")
    (listed,) = json.loads(shown(*words, "--json"))
    assert listed["deletion"] == {
        "deleted_ns": SECOND_NS + 10**9,
        "deleted": "2026-09-21T14:13:21Z",
        "deleted_reason": "point delete",
        "deleted_by": "alice",
    }
    service.answers(point_history, "show", GONE)
    assert "  deleted 2026-09-21T14:13:21Z by alice: point delete" in shown("point", "show", "7777")


def test_a_time_that_is_none(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(("point", "list", "--as-of", "soon")) == ExitCode.USAGE
    assert "'soon' is no time" in capsys.readouterr().err


def test_what_is_recorded_of_a_volume(service: Service, shown: Shown) -> None:
    assert shown("catalogue", "show", "srv").splitlines() == [
        "srv, protected; recorded 2026-09-21T14:13:20Z",
        f"  id        {OTHER}",
        "  device    /dev/sdb, 1 GiB",
        "  recovery  /dev/sdc",
        "  content   ext4 3f1c",
        "  mounted   /srv (ext4, rw,noatime)",
        "  unit      db.service",
        "  link      /dev/disk/by-id/x (seen 2026-09-21T14:13:20Z)",
    ]
    written = json.loads(shown("catalogue", "show", "srv", "--json"))
    assert written["identifiers"] == [
        {
            "kind": "link",
            "value": "/dev/disk/by-id/x",
            "seen_ns": SECOND_NS,
            "seen": "2026-09-21T14:13:20Z",
        }
    ]


def test_what_is_wrong_with_the_catalogue(service: Service, shown: Shown) -> None:
    assert shown("catalogue", "check").splitlines() == [
        "the store of data was not looked at: a command works on the volume",
        "nothing is wrong with /x/catalogue.db",
    ]
    wrong = CheckResult("/x/catalogue.db", ("job 7 is recorded as ended, and not when",), ())
    service.answers(catalogue_check, "check", wrong)
    told = shown("catalogue", "check", expected=ExitCode.UNHEALTHY)
    assert told == "job 7 is recorded as ended, and not when\n"


def test_nothing_to_show_is_said(service: Service, shown: Shown) -> None:
    service.answers(status, "status", [])
    service.answers(point, "list_points", [])
    assert shown("status") == "no volume is protected\n"
    assert shown("point", "list") == "there are no points\n"
    assert json.loads(shown("status", "--json")) == []


def test_status_of_one_volume_shows_its_mounts_and_ends_well(
    service: Service, shown: Shown
) -> None:
    headings, row = shown("status", "srv").splitlines()
    assert headings.split() == [
        "VOLUME", "STATE", "SIZE", "MOUNTED", "ON", "RECOVERY", "POINT", "AGE", "EARLIER", "LIVE",
    ]  # fmt: skip
    assert row.split() == [
        "srv", "protected", "1", "GiB", "/srv", "3f2a0000", "2", "h", "4", "1",
    ]  # fmt: skip
    (volume,) = json.loads(shown("status", "srv", "--json"))
    assert volume["replica"]["history_points"] == 4
    assert volume["problems"] == []


def test_status_of_all_is_a_line_for_each(service: Service, shown: Shown) -> None:
    newest = RecoverablePoint(str(OTHER), SECOND_NS, 125.0)
    long = replace(
        STATUS, volume="n" * 64, newest=newest, recovery_seconds=3.21, state=VolumeState.COMMITTING
    )
    bare = replace(STATUS, volume="b", replica=None, live_points=(), recovery_seconds=7300.0)
    service.answers(status, "status", [STATUS, long, bare])
    headings, *rows = shown("status").splitlines()
    assert headings.split() == [
        "VOLUME", "STATE", "NEWEST", "AGE", "REPLICA", "LIVE/HISTORY", "LAST", "SWAP",
    ]  # fmt: skip
    assert [row.split() for row in rows] == [
        ["srv", "protected", "-", "-", "2", "h", "1/4", "-"],
        [f"{'n' * 29}...", "committing", str(OTHER)[:8], "2", "min", "2", "h", "1/4", "3.2", "s"],
        ["b", "protected", "-", "-", "-", "0/-", "2", "h"],
    ]
    assert max(len(row) for row in (headings, *rows)) <= 100
    (first, second, _) = json.loads(shown("status", "--json"))
    assert (first["newest"], first["recovery_seconds"]) == (None, None)
    assert second["newest"] == {
        "point": str(OTHER), "created_ns": SECOND_NS, "created": "2026-09-21T14:13:20Z",
        "age_seconds": 125.0,
    }  # fmt: skip


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


def test_a_report_is_written_to_the_file_named(service: Service, shown: Shown) -> None:
    service.answers(report, "write", ReportResult(Path("/x/r.html"), 2, 2048))
    assert shown("report", "--html", "r.html") == "/x/r.html: 2 volumes, 2 KiB\n"
    assert service.calls[-1] == ("write", (Path("r.html"),), {})
    assert json.loads(shown("report", "--html", "r.html", "--json")) == {
        "file": "/x/r.html", "volumes": 2, "size_bytes": 2048,
    }  # fmt: skip
    assert program.main(("report",)) == ExitCode.USAGE


def test_a_resize_says_what_is_left_to_do(service: Service, shown: Shown) -> None:
    assert shown("resize", "srv").splitlines() == [
        "the label of /dev/sdc is at the end that it has now",
        "1 points were dropped",
        "srv has 2 GiB now, it had 1 GiB; the next sync compares in full",
        "what is on it keeps its size until: resize2fs /dev/mapper/srv",
    ]
    nothing = replace(RESIZED, size_bytes=GIB, steps={})
    service.answers(resize, "resize", nothing)
    assert shown("resize", "srv") == "srv has 1 GiB on /dev/sdb: nothing is to be done\n"
    given_up = replace(RESIZED, recovery=None, points_dropped=(), given_up="/dev/sda")
    service.answers(resize, "resize", given_up)
    lines = shown("resize", "srv", "--give-up-former").splitlines()
    assert lines[0] == "the label of /dev/sdb is at the end that it has now"
    assert lines[2] == "/dev/sda is given up: there is no failback any more"


def test_discover_tells_of_findings_by_its_exit_code(service: Service, shown: Shown) -> None:
    assert "/data" in shown("discover")
    service.answers(discovery, "discover", Discovery((FOUND,), "default", ("it is a twin",)))
    lines = shown("discover", expected=ExitCode.UNHEALTHY).splitlines()
    assert "unprotected, new, left out" in lines[1]
    assert lines[2] == "it is a twin"
    found = json.loads(shown("discover", "--json", expected=ExitCode.UNHEALTHY))
    assert found["findings"] == ["it is a twin"]
    assert found["volumes"][0]["role"] == "unprotected"


def test_discover_says_what_the_next_run_will_protect(service: Service, shown: Shown) -> None:
    first = replace(FOUND, left_out=False, joins_as="data", by_next_run=True)
    second = replace(first, joins_as="more", by_next_run=False)
    service.answers(discovery, "discover", Discovery((first, second), "default", ()))
    lines = shown("discover").splitlines()
    assert "unprotected, new, will be protected by the next run as data" in lines[1]
    assert "will be protected by a later run as more" in lines[2]
    found, _ = json.loads(shown("discover", "--json"))["volumes"]
    assert (found["joins_as"], found["by_next_run"]) == ("data", True)
    assert found["obstacle"] is None
    assert found["tried_ns"] is None


def test_the_service_reserves_the_words_that_the_command_line_does() -> None:
    assert set(RESERVED_NAMES) == set(admission.RESERVED)
