"""A catalogue whose disk is full or read-only: refused or undone, and in order afterwards."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from conftest import (
    MIB,
    Lab,
    dm_devices,
    dmsnap,
    forked,
    rarely,
    refused,
    run,
    sha256,
    step_at,
    suspended,
)
from lost_state import lose_stack
from test_jobs import last_job

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import StepState
from dmsnap.catalogue.store import Catalogue
from dmsnap.cli.main import main
from dmsnap.errors import ExitCode

SIZE = 64 * MIB
STATE = Path("/var/lib/dmsnap")
WORDS = (("sync",), ("point", "create"), ("swap",), ("unprotect",))


@pytest.fixture
def state(lab: Lab) -> Iterator[Path]:
    """The catalogue on a small disk of its own."""
    STATE.mkdir(parents=True, exist_ok=True)
    disk = lab.disk(8 * MIB)
    run("mkfs.ext4", "-q", "-F", disk)
    run("mount", disk, STATE)
    try:
        yield STATE
    finally:
        for name in lab.names:
            run("sh", "-c", f"umount /dev/mapper/{name} 2>/dev/null; true")
        for row in sorted(dm_devices(), key=lambda row: row.startswith("dmsnap-")):
            run("sh", "-c", f"dmsetup remove {row} || true")
        run("umount", STATE)


@contextmanager
def full(directory: Path) -> Iterator[None]:
    """Not one block is left; SQLite's files have the size that they have."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    run("mount", "-o", "remount,ro", directory)
    try:
        yield
    finally:
        run("mount", "-o", "remount,rw", directory)


Trouble = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("trouble", "code"), [(full, ExitCode.NO_SPACE), (read_only, ExitCode.READ_ONLY)]
)
def test_nothing_is_lost(lab: Lab, state: Path, trouble: Trouble, code: ExitCode) -> None:
    """The volume serves all the time, its replica is a point, and the next command tidies up."""
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    (mount_point / "file").write_text("one")
    name = lab.protect(primary, recovery)
    (mount_point / "file").write_text("two")
    dmsnap("sync", name)
    apply = [step["name"] for step in last_job()["steps"]].index("apply")
    replica, label = sha256(recovery, SIZE), dmsnap("inspect", "label", recovery)
    (mount_point / "file").write_text("three")
    with trouble(state):
        for words in WORDS:
            sentence = refused(code, *words, name)
            assert str(state) in sentence
            assert suspended() == []
            assert (mount_point / "file").read_text() == "three"
            (mount_point / "probe").write_text("".join(words))
            assert sha256(recovery, SIZE) == replica
            assert dmsnap("inspect", "label", recovery)["point_uuid"] == label["point_uuid"]
    assert dmsnap("sync", name, "--audit", "full")["tracker"] in ("era", "compare")
    dmsnap("status", name)
    assert len(dm_devices()) == 2
    assert len(list(Path(lab.store()).iterdir())) == 1
    if trouble is read_only:  # also while the replica is written to
        read_only_from(apply, lab, mount_point, "sync", name)
    dmsnap("unprotect", name)


def once_begun(
    position: int, happens: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something happens as soon as it is recorded that a step has begun."""
    recorded = jobs.record_step

    def record_step(
        catalogue: Catalogue, job_id: int, at: int, state: StepState, seconds: float | None
    ) -> None:
        recorded(catalogue, job_id, at, state, seconds)
        if (at, state) == (position, "begun"):
            happens()

    monkeypatch.setattr(jobs, "record_step", record_step)


def full_from(position: int, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full as soon as a step has begun."""
    once_begun(position, lambda: stack.enter_context(full(STATE)), monkeypatch)


def exit_code(*words: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main([*words, "--json"])


@pytest.mark.parametrize(
    "words",
    [
        ("sync",),
        rarely(("point", "create")),
        rarely(("swap",)),
    ],
)
def test_full_from_any_step_on(lab: Lab, state: Path, words: tuple[str, ...]) -> None:
    """What was begun is undone without the catalogue; what it says wrongly is put right after."""
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    for position in range(len(dmsnap(*words, name, "--dry-run")["steps"])):
        content = f"before step {position}"
        (mount_point / "file").write_text(content)
        with ExitStack() as trouble, pytest.MonkeyPatch.context() as monkeypatch:
            full_from(position, trouble, monkeypatch)
            code = exit_code(*words, name)
        assert code == ExitCode.NO_SPACE, position
        assert suspended() == []
        assert (mount_point / "file").read_text() == content
        in_order_again(lab, name, mount_point)


def in_order_again(lab: Lab, name: str, mount_point: Path) -> None:
    """What the next commands do is right, and nothing is left of what was begun."""
    content = (mount_point / "file").read_text()
    if dmsnap_state(name) == "trial":
        dmsnap("swap", "revert", name)
        assert (mount_point / "file").read_text() == content
    dmsnap("sync", name)
    dmsnap("status", name)
    assert len(dm_devices()) == 2
    assert len(list(Path(lab.store()).iterdir())) == 1


@pytest.mark.parametrize("step", ["load-front", "mount"])
@pytest.mark.parametrize("operation", ["swap", "swap revert"])
def test_a_boot_shows_what_a_swap_on_a_full_disk_was_taken_back_to(
    lab: Lab, state: Path, monkeypatch: pytest.MonkeyPatch, operation: str, step: str
) -> None:
    """The record could not be: the note of it takes no block."""
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    (mount_point / "file").write_text("primary")
    if operation == "swap revert":
        dmsnap("swap", name)
    words = (*operation.split(), name)
    (mount_point / "file").write_text("before")
    with ExitStack() as trouble:
        with monkeypatch.context() as patch:
            full_from(step_at(step, *words), trouble, patch)
            assert exit_code(*words) == ExitCode.NO_SPACE
        assert suspended() == []
        (mount_point / "file").write_text("since")
        lose_stack(lab, mount_point)
    dmsnap("assemble", "--boot", name)
    run("mount", f"/dev/mapper/{name}", mount_point)
    assert (mount_point / "file").read_text() == "since"
    dmsnap("job", "resume", "--all")
    assert (mount_point / "file").read_text() == "since"
    assert dmsnap_state(name) == ("protected" if operation == "swap" else "trial")
    if operation == "swap revert":
        dmsnap(*words)
        assert (mount_point / "file").read_text() == "primary"
    in_order_again(lab, name, mount_point)


def shut(directory: Path) -> None:
    """Nothing is written there any more, as after an I/O error: read-only, with files open."""
    run("mount", "-o", "remount,abort", directory)


def mount_anew(directory: Path) -> None:
    source = run("findmnt", "--noheadings", "--output=SOURCE", directory).strip()
    run("umount", directory)
    run("mount", source, directory)


def read_only_from(position: int, lab: Lab, mount_point: Path, *words: str) -> None:
    """As on a full disk. What was recorded before is there again when the disk is."""
    content = f"before step {position}"
    (mount_point / "file").write_text(content)
    # In a process of its own: SQLite maps a file there, and what cannot be written of it is SIGBUS.
    ended = forked(*words, at=(position, "begun"), happens=partial(shut, STATE))
    assert ended.code == ExitCode.READ_ONLY, (position, ended)
    assert "read-only" in ended.stderr
    assert suspended() == []
    assert (mount_point / "file").read_text() == content
    mount_anew(STATE)
    in_order_again(lab, words[-1], mount_point)


@pytest.mark.parametrize("step", ["load-front", "mount"])
def test_a_boot_shows_what_a_swap_on_a_disk_that_was_shut_was_taken_back_to(
    lab: Lab, state: Path, step: str
) -> None:
    """Neither record nor note could be: that the overlay is gone tells."""
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    (mount_point / "file").write_text("before")
    at = (step_at(step, "swap", name), "begun")
    ended = forked("swap", name, at=at, happens=partial(shut, STATE))
    assert ended.code == ExitCode.READ_ONLY, ended
    (mount_point / "file").write_text("since")
    lose_stack(lab, mount_point)
    mount_anew(STATE)
    dmsnap("assemble", "--boot", name)
    run("mount", f"/dev/mapper/{name}", mount_point)
    assert (mount_point / "file").read_text() == "since"
    dmsnap("job", "resume", "--all")
    assert dmsnap_state(name) == "protected"
    in_order_again(lab, name, mount_point)


@pytest.mark.parametrize(
    "words", [rarely(("sync",)), rarely(("point", "create")), rarely(("swap",))]
)
def test_read_only_from_any_step_on(lab: Lab, state: Path, words: tuple[str, ...]) -> None:
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    for position in range(len(dmsnap(*words, name, "--dry-run")["steps"])):
        read_only_from(position, lab, mount_point, *words, name)


def spoil() -> None:
    """The file is not what it was, and nor is its log."""
    for part in (STATE / "catalogue.db", STATE / "catalogue.db-wal"):
        with part.open("r+b") as file:
            file.write(os.urandom(part.stat().st_size))


@pytest.mark.parametrize("words", [rarely(("point", "create")), rarely(("sync",)), ("swap",)])
def test_damaged_from_any_step_on(lab: Lab, state: Path, words: tuple[str, ...]) -> None:
    """One sentence; the volume serves, its replica is a point, and a rebuild puts all in order."""
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    name = lab.protect(primary, recovery)
    for position in range(len(dmsnap(*words, name, "--dry-run")["steps"])):
        content = f"before step {position}"
        (mount_point / "file").write_text(content)
        with pytest.MonkeyPatch.context() as monkeypatch:
            once_begun(position, spoil, monkeypatch)
            code = exit_code(*words, name)
        # What SQLite still has in its memory may be enough to come to the end.
        assert code in (0, ExitCode.CORRUPT, ExitCode.OS), position
        assert suspended() == []
        is_swapped = words == ("swap",) and code == 0  # and shows the replica
        assert is_swapped or (mount_point / "file").read_text() == content
        assert "damaged" in refused(ExitCode.CORRUPT, "status"), position
        assert is_swapped or (mount_point / "file").read_text() == content
        result = dmsnap("catalogue", "rebuild", expected=None)
        assert Path(result["set_aside"]).exists()
        assert [each["volume"] for each in result["volumes"]] == [name], result
        for aside in STATE.glob("catalogue.db.damaged-*"):
            aside.unlink()
        if dmsnap_state(name) == "trial":
            dmsnap("swap", "revert", name)
            assert (mount_point / "file").read_text() == content
        assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0
        for point in dmsnap("point", "list", name):
            if any(place["kind"] == "live" for place in point["places"]):
                dmsnap("point", "delete", point["id"])
        assert dmsnap("catalogue", "check")["problems"] == []
        assert len(dm_devices()) == 2, position
        assert len(list(Path(lab.store()).iterdir())) == 1, position


def test_unprotect_full_from_any_step_on(lab: Lab, state: Path) -> None:
    """The file system is mounted whatever happens, from the front or from the device."""
    primary, recovery = lab.disk(SIZE), lab.disk(2 * SIZE)
    mount_point = lab.mounted(primary)
    words = ("protect", primary, "--name", lab.name(), "--recovery", recovery)
    name = dmsnap(*words, "--store", lab.store())["volume"]
    for position in range(len(dmsnap("unprotect", name, "--dry-run")["steps"])):
        content = f"before step {position}"
        (mount_point / "file").write_text(content)
        with ExitStack() as trouble, pytest.MonkeyPatch.context() as monkeypatch:
            full_from(position, trouble, monkeypatch)
            code = exit_code("unprotect", name)
        assert code == ExitCode.NO_SPACE, position
        assert suspended() == []
        assert os.path.ismount(mount_point), position
        assert (mount_point / "file").read_text() == content
        # Written past the front, or through it: never missed.
        (mount_point / "file").write_text("written since")
        if len(dm_devices()) == 2:
            assert dmsnap("sync", name, "--audit", "full")["audit"]["bytes_different"] == 0
        dmsnap("unprotect", name)
        assert dm_devices() == []
        assert list(Path(lab.store()).iterdir()) == []
        assert (mount_point / "file").read_text() == "written since"
        dmsnap(*words, "--store", lab.store())


def dmsnap_state(name: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(["status", name, "--json"])
    return str(json.loads(out.getvalue())[0]["state"])
