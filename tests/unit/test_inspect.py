"""Inspect: recorded images through the command line, and metadata in use through its snapshot."""

import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from dmsnap._native import label as labels
from dmsnap._native.label import HistoryEntry, HistoryFlag, Label, LabelState
from dmsnap.cli import program
from dmsnap.errors import (
    CorruptError,
    ExitCode,
    NotFoundError,
    NotPermittedError,
    NotThisFormatError,
    WrongStateError,
)
from dmsnap.host.dm.target import Era, Linear, TableLine
from dmsnap.service.inspection import era_front, inspect_era, metadata_snapshot
from dmsnap.service.inspection import inspect as inspecting
from dmsnap.service.inspection.inspect_label import inspect_label
from dmsnap.units import GIB, MIB

IMAGES = Path(__file__).parents[1] / "native" / "images"
ERA = sorted(path.stem for path in IMAGES.glob("era-*.json"))
STORES = sorted(path.stem for path in IMAGES.glob("store-*.json"))
WITH_SNAPSHOT = "era-snapshot-6.1"


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((IMAGES / f"{name}.json").read_text())
    return found


def unpacked(name: str, directory: Path) -> Path:
    path = directory / f"{name}.img"
    path.write_bytes(gzip.decompress((IMAGES / f"{name}.img.gz").read_bytes()))
    return path


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What a command prints as JSON."""

    def run(*arguments: object) -> Any:
        assert program.main([*(str(word) for word in arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def merged(blocks: list[int], block_size: int) -> list[list[int]]:
    """Ascending blocks as merged extents."""
    extents: list[list[int]] = []
    for block in blocks:
        offset = block * block_size
        if extents and sum(extents[-1]) == offset:
            extents[-1][1] += block_size
        else:
            extents.append([offset, block_size])
    return extents


@pytest.mark.parametrize("name", ERA)
def test_era_images(name: str, tmp_path: Path, shown: Callable[..., Any]) -> None:
    image, path = expected(name), unpacked(name, tmp_path)
    for since in (1, 2, 3, 99):
        found = shown("inspect", "era", path, "--since", since)
        written = [block for block, last in image["live"]["written"] if last >= since]
        assert list(found) == [
            "block_size", "nr_blocks", "current_era", "metadata_snapshot", "since", "extents",
        ]  # fmt: skip
        assert found["block_size"] == image["block_size"]
        assert found["nr_blocks"] == image["nr_blocks"]
        assert found["since"] == since
        assert bool(found["metadata_snapshot"]) == ("snapshot" in image)
        assert found["extents"] == merged(written, image["block_size"])


@pytest.mark.parametrize("name", STORES)
def test_store_images(name: str, tmp_path: Path, shown: Callable[..., Any]) -> None:
    image, path = expected(name), unpacked(name, tmp_path)
    found = shown("inspect", "store", path)
    chunks = image["chunks"] if image["valid"] else []
    chunk_size = image["chunk_size"] * 512
    assert found == {
        "chunk_size": chunk_size,
        "valid": image["valid"],
        "exceptions": len(chunks),
        "extents": merged(chunks, chunk_size),
    }


@pytest.mark.parametrize("what", ["era", "store", "label"])
def test_for_people(
    what: str, tmp_path: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {
        "era": unpacked(WITH_SNAPSHOT, tmp_path),
        "store": unpacked("store-4k-6.1", tmp_path),
        "label": labelled,
    }
    since = ["--since", "1"] if what == "era" else []
    assert program.main(["inspect", what, str(paths[what]), *since]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert {"era": "now in era", "store": "chunks of 4 KiB", "label": "recovery volume of srv"}[
        what
    ] in captured.out


LABEL = Label(
    generation=1, size_bytes=32 * MIB, volume_uuid=UUID(int=1), recovery_uuid=UUID(int=2),
    state=LabelState.CONSISTENT, flags=HistoryFlag.KEEP, point_uuid=UUID(int=3),
    point_time_ns=1_790_000_000_123_456_789, next_point_uuid=None, next_point_time_ns=0,
    history_offset_bytes=32 * MIB, history_length_bytes=16 * MIB, name="srv", fs_type="ext4",
    fs_uuid="3f1c", host="alpha",
    history=(
        HistoryEntry(UUID(int=4), 1_780_000_000_000_000_000, 32 * MIB, MIB, 8, HistoryFlag(0)),
    ),
)  # fmt: skip


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "recovery.img"
    with path.open("wb+") as file:
        file.truncate(64 * MIB)
        labels.write(file.fileno(), 64 * MIB, LABEL, "recovery.img")
    return path


def test_a_label(labelled: Path, shown: Callable[..., Any]) -> None:
    found = shown("inspect", "label", labelled)
    assert found["generation"] == 1
    assert set(Label.__slots__) <= set(found)
    assert found["volume_uuid"] == "00000000-0000-0000-0000-000000000001"
    assert found["state"] == "consistent"
    assert found["flags"] == ["keep"]
    assert found["point_time_ns"] == 1_790_000_000_123_456_789
    assert found["point_time"] == "2026-09-21T14:13:20Z"
    assert found["next_point_uuid"] is None
    assert found["next_point_time"] is None
    (entry,) = found["history"]
    assert entry["point_time"] == "2026-05-28T20:26:40Z"
    assert entry["flags"] == []


@pytest.mark.parametrize("words", [("era", "--since", "1"), ("store",), ("label",)])
@pytest.mark.parametrize("damage", ["empty", "zeroes", "noise", "short"])
def test_what_is_no_metadata_is_told(
    words: tuple[str, ...], damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "image"
    path.write_bytes(
        {"empty": b"", "zeroes": bytes(MIB), "noise": os.urandom(MIB), "short": b"x" * 700}[damage]
    )
    exit_code = program.main(["inspect", words[0], str(path), *words[1:]])
    assert exit_code in (ExitCode.CORRUPT, ExitCode.TOO_SMALL)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(path) in captured.err


class ShortWrites(io.RawIOBase):
    """A pipe that takes a little at a time, as one does when a signal comes."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.written += bytes(data)[:100]
        return min(len(data), 100)


def test_short_writes_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With PYTHONUNBUFFERED, Python writes texts to a bare file and forgets what that leaves."""
    words = ["inspect", "era", str(unpacked("era-undigested-6.1", tmp_path)), "--since", "1"]
    assert program.main([*words, "--json"]) == 0
    whole = capsys.readouterr().out
    raw = ShortWrites()
    bare = io.TextIOWrapper(cast(io.BytesIO, raw), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", bare)
    assert program.main([*words, "--json"]) == 0
    assert len(whole) > 1000
    assert raw.written.decode() == whole


def test_truncated_and_flipped_images_never_pass_silently(tmp_path: Path) -> None:
    path = unpacked(WITH_SNAPSHOT, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096])
    with pytest.raises(CorruptError):
        inspect_era.inspect_era(path, 1)
    flipped = bytearray(whole)
    flipped[40] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CorruptError):
        inspect_era.inspect_era(path, 1)


def test_other_paths_are_told(tmp_path: Path) -> None:
    for inspection in (inspecting.inspect_store, inspect_label):
        with pytest.raises(NotFoundError):
            inspection(tmp_path / "missing")
        with pytest.raises(NotFoundError, match="no block device"):
            inspection(tmp_path)
    with pytest.raises(NotFoundError, match="no block device"):
        inspect_era.inspect_era(Path("/dev/null"), 1)
    (tmp_path / "label").write_bytes(bytes(4096))
    with pytest.raises(CorruptError):
        inspect_label(tmp_path / "label")
    (tmp_path / "store").write_bytes(bytes(4096))
    with pytest.raises(NotThisFormatError):
        inspecting.inspect_store(tmp_path / "store")


FRONT, METADATA, ORIGIN = os.makedev(253, 5), os.makedev(253, 3), os.makedev(253, 4)


class Host:
    """A host on which ``srv`` is an era device over ``METADATA``, whose content is an image."""

    def __init__(self, image: Path, snapshot: int | None, *, ours: bool = False) -> None:
        self.image = image
        self.snapshot = snapshot
        self.ours = ours
        self.messages: list[str] = []
        self.locked: list[str] = []
        self.size_bytes = 0

    def dm_name(self, devno: int) -> str | None:
        return {FRONT: "srv", METADATA: "meta", ORIGIN: "origin"}.get(devno)

    def display_name(self, devno: int) -> str:
        return str(self.dm_name(devno))

    def holders(self, devno: int) -> list[int]:
        return [FRONT] if devno in (METADATA, ORIGIN) else []

    def table(self, name: str) -> tuple[TableLine, ...]:
        target = Era(METADATA, ORIGIN, 65536) if name == "srv" else Linear(1)
        return (TableLine(0, self.size_bytes, target),)

    def existing(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(ours=self.ours)

    def era_status(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(metadata_snap=self.snapshot)

    def message(self, _name: str, text: str) -> str:
        self.messages.append(text)
        self.snapshot = None if text.startswith("drop") else 77
        return ""

    def path_by_devno(self, devno: int) -> Path:
        assert devno == METADATA
        return self.image

    @contextmanager
    def lock_of(self, front: era_front.EraFront) -> Iterator[None]:
        self.locked.append(front.name)
        yield


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    image = expected(WITH_SNAPSHOT)
    found = Host(unpacked(WITH_SNAPSHOT, tmp_path), None)
    found.size_bytes = image["nr_blocks"] * image["block_size"]
    monkeypatch.setattr(era_front, "dm", found)
    monkeypatch.setattr(era_front, "SYSFS", found)
    monkeypatch.setattr(metadata_snapshot, "SYSFS", found)
    monkeypatch.setattr(era_front, "lock_of", found.lock_of)
    monkeypatch.setattr(era_front, "open_shared", lambda path: open_file(path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return found


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        yield file.fileno()


def at(monkeypatch: pytest.MonkeyPatch, devno: int) -> Path:
    monkeypatch.setattr(inspect_era, "block_device_of", lambda _device: devno)
    return Path("/dev/dm")


def snapshot_extents() -> list[tuple[int, int]]:
    image = expected(WITH_SNAPSHOT)
    written = [block for block, last in image["snapshot"]["written"] if last >= 1]
    return [(offset, length) for offset, length in merged(written, image["block_size"])]


@pytest.mark.parametrize("devno", [FRONT, METADATA])
def test_metadata_in_use_is_read_through_a_snapshot_of_its_own(
    host: Host, monkeypatch: pytest.MonkeyPatch, devno: int
) -> None:
    found = inspect_era.inspect_era(at(monkeypatch, devno), 1)
    assert host.messages == ["take_metadata_snap", "drop_metadata_snap"]
    assert host.locked == ["srv"]
    assert (found.front, found.taken) == ("srv", True)
    assert list(found.extents.pairs()) == snapshot_extents()


def test_a_snapshot_that_is_held_is_used_and_left(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.snapshot = 12
    found = inspect_era.inspect_era(at(monkeypatch, FRONT), 1)
    assert host.messages == []
    assert not found.taken
    assert program.main(["inspect", "era", "/dev/dm", "--since", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["extents"]
    assert "srv holds a metadata snapshot already" in captured.err


def test_extents_end_with_the_volume(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose size is no multiple of the block size: known from its table alone."""
    host.size_bytes -= 61440
    found = inspect_era.inspect_era(at(monkeypatch, FRONT), 0)
    assert list(found.extents.pairs()) == [(0, host.size_bytes)]


def test_the_snapshot_is_dropped_whatever_fails(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.image.write_bytes(bytes(MIB))
    with pytest.raises(CorruptError):
        inspect_era.inspect_era(at(monkeypatch, FRONT), 1)
    assert host.messages == ["take_metadata_snap", "drop_metadata_snap"]


def test_a_snapshot_that_others_drop_makes_the_answer_worthless(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def dropped_meanwhile(path: Path) -> Iterator[int]:
        with open_file(path) as fd:
            yield fd
        host.snapshot = 99

    monkeypatch.setattr(era_front, "open_shared", dropped_meanwhile)
    with pytest.raises(WrongStateError, match="dropped by somebody else"):
        inspect_era.inspect_era(at(monkeypatch, FRONT), 1)
    assert host.messages == ["take_metadata_snap"]


def test_what_is_no_metadata_of_an_era_device_is_read_as_it_is(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin below it is held by the same front."""
    at(monkeypatch, ORIGIN)
    assert era_front.find_front(ORIGIN) is None
    assert era_front.find_front(os.makedev(8, 0)) is None


def test_metadata_in_use_needs_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotPermittedError, match="in use by srv"):
        era_front.find_front(METADATA)


def test_the_volume_is_locked_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "dmsnap.toml"
    settings.write_text(f'run_directory = "{tmp_path}"\n')
    monkeypatch.setenv("DMSNAP_CONFIG", str(settings))
    with era_front.lock_of(era_front.EraFront("srv", True, METADATA, GIB)):
        assert (tmp_path / "locks" / "srv.lock").read_bytes()
    with era_front.lock_of(era_front.EraFront("foreign", False, METADATA, GIB)):
        assert not (tmp_path / "locks" / "foreign.lock").exists()
