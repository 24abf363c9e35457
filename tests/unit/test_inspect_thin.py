"""Inspect thin: recorded images through the command line, and pools in use."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmsnap.cli import program
from dmsnap.errors import CorruptError, ExitCode, NotPermittedError, WrongStateError
from dmsnap.host.dm.target import Linear, TableLine, Target, ThinPool
from dmsnap.service.inspection import inspect_thin as inspecting
from dmsnap.service.inspection import metadata_snapshot, thin_pool
from dmsnap.units import MIB

IMAGES = Path(__file__).parents[1] / "native" / "images"
POOL, HELD = "thin-pool-6.1", "thin-held-6.1"
BLOCK = 65536


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


def test_devices(tmp_path: Path, shown: Callable[..., Any]) -> None:
    found = shown("inspect", "thin", unpacked(POOL, tmp_path))
    assert list(found) == [
        "block_size", "transaction_id", "metadata_snapshot", "needs_check", "devices",
    ]  # fmt: skip
    assert found["block_size"] == BLOCK
    assert found["metadata_snapshot"] is None
    assert found["needs_check"] is False
    assert [device["dev_id"] for device in found["devices"]] == [1, 2, 8, 11, 12, 111]
    dumped = expected(POOL)["live"]["thin_dump"]["devices"]["12"]
    assert found["devices"][4] == {
        "dev_id": 12,
        "mapped_blocks": dumped["mapped_blocks"],
        "transaction_id": dumped["transaction"],
        "creation_time": dumped["creation_time"],
        "snapshotted_time": dumped["snap_time"],
    }


def test_mappings(tmp_path: Path, shown: Callable[..., Any]) -> None:
    found = shown("inspect", "thin", unpacked(POOL, tmp_path), "--device", 12)
    assert (found["device"], found["since"]) == (12, None)
    runs = expected(POOL)["live"]["thin_dump"]["devices"]["12"]["mappings"]
    assert found["extents"] == [
        [thin * BLOCK, length * BLOCK, data * BLOCK] for thin, data, length, _ in runs
    ]


def test_difference(tmp_path: Path, shown: Callable[..., Any]) -> None:
    found = shown("inspect", "thin", unpacked(POOL, tmp_path), "--device", 12, "--since", 1)
    assert (found["device"], found["since"]) == (12, 1)
    delta = expected(POOL)["live"]["thin_delta"]["1 12"]
    names = {"added": "right_only", "removed": "left_only", "changed": "different"}
    for kind, name in names.items():
        blocks = [
            block
            for offset, length, how in found["extents"]
            if how == kind
            for block in range(offset // BLOCK, (offset + length) // BLOCK)
        ]
        assert blocks == [
            block for begin, length in delta[name] for block in range(begin, begin + length)
        ]
    offsets = [offset for offset, _, _ in found["extents"]]
    assert offsets == sorted(offsets)


def test_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(unpacked(POOL, tmp_path))
    for words, text in (
        ((), "6 devices"),
        (("--device", "1"), "thin device 1 maps"),
        (("--device", "1", "--since", "12"), "thin device 1 differs from 12 in 5."),
    ):
        assert program.main(["inspect", "thin", path, *words]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert text in captured.out


@pytest.mark.parametrize(
    ("words", "exit_code", "text"),
    [
        (("--since", "1"), ExitCode.USAGE, "give both"),
        (("--device", "99"), ExitCode.NOT_FOUND, "has no thin device 99"),
        (("--device", "1", "--since", "99"), ExitCode.NOT_FOUND, "has no thin device 99"),
        (("--device", str(2**24)), ExitCode.USAGE, "16777216"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...],
    exit_code: ExitCode,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.main(["inspect", "thin", str(unpacked(POOL, tmp_path)), *words]) == exit_code
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", bytes(MIB), b"x" * 700])
def test_what_is_no_metadata_is_told(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert program.main(["inspect", "thin", str(path)]) == ExitCode.CORRUPT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(path) in captured.err


METADATA, DATA, TPOOL, LAYER = (os.makedev(253, minor) for minor in (3, 4, 5, 6))


class Host:
    """A host as LVM sets it up: ``tpool`` over ``tmeta`` and ``tdata``, ``layer`` over the pool."""

    def __init__(self, image: Path, held: int | None) -> None:
        self.image = image
        self.held = held
        self.messages: list[str] = []

    def dm_name(self, devno: int) -> str | None:
        return {METADATA: "tmeta", DATA: "tdata", TPOOL: "tpool", LAYER: "layer"}.get(devno)

    def display_name(self, devno: int) -> str:
        return str(self.dm_name(devno))

    def holders(self, devno: int) -> list[int]:
        return {METADATA: [TPOOL], DATA: [TPOOL], TPOOL: [LAYER]}.get(devno, [])

    def table(self, name: str) -> tuple[TableLine, ...]:
        targets: dict[str, Target] = {
            "tpool": ThinPool(METADATA, DATA, BLOCK, 0),
            "layer": Linear(TPOOL),
        }
        return (TableLine(0, MIB, targets.get(name, Linear(os.makedev(8, 0)))),)

    def thin_pool_status(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(held_root=self.held)

    def message(self, name: str, text: str) -> str:
        assert name == "tpool"
        self.messages.append(text)
        self.held = None if text.startswith("release") else 77
        return ""

    def path_by_devno(self, devno: int) -> Path:
        assert devno == METADATA
        return self.image


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(unpacked(HELD, tmp_path), None)
    monkeypatch.setattr(thin_pool, "dm", found)
    monkeypatch.setattr(thin_pool, "SYSFS", found)
    monkeypatch.setattr(metadata_snapshot, "SYSFS", found)
    monkeypatch.setattr(thin_pool, "open_shared", lambda path: open_file(path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return found


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        yield file.fileno()


def at(monkeypatch: pytest.MonkeyPatch, devno: int) -> Path:
    monkeypatch.setattr(inspecting, "block_device_of", lambda _device: devno)
    return Path("/dev/dm")


@pytest.mark.parametrize("devno", [METADATA, TPOOL, LAYER])
def test_a_pool_in_use_is_read_through_a_snapshot_of_its_own(
    host: Host, monkeypatch: pytest.MonkeyPatch, devno: int
) -> None:
    found = inspecting.inspect_thin(at(monkeypatch, devno), 1, None)
    assert host.messages == ["reserve_metadata_snap", "release_metadata_snap"]
    assert (found.pool, found.taken) == ("tpool", True)
    log = expected(HELD)
    assert log["snapshot"]["log"]["1"] != log["live"]["log"]["1"]
    assert found.total_bytes == BLOCK * sum(length for _, length in log["snapshot"]["log"]["1"])


def test_a_snapshot_that_is_held_is_used_and_left(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.held = 12
    assert not inspecting.inspect_thin(at(monkeypatch, TPOOL), None, None).taken
    assert host.messages == []
    assert program.main(["inspect", "thin", "/dev/dm", "--json"]) == 0
    captured = capsys.readouterr()
    ids = [device["dev_id"] for device in json.loads(captured.out)["devices"]]
    assert 111 in ids
    assert 21 not in ids
    assert "tpool holds a metadata snapshot already" in captured.err


def test_the_snapshot_is_released_whatever_fails(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.image.write_bytes(bytes(MIB))
    with pytest.raises(CorruptError):
        inspecting.inspect_thin(at(monkeypatch, TPOOL), None, None)
    assert host.messages == ["reserve_metadata_snap", "release_metadata_snap"]


def test_a_snapshot_that_others_release_makes_the_answer_worthless(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def released_meanwhile(path: Path) -> Iterator[int]:
        with open_file(path) as fd:
            yield fd
        host.held = 99

    monkeypatch.setattr(thin_pool, "open_shared", released_meanwhile)
    with pytest.raises(WrongStateError, match="dropped by somebody else"):
        inspecting.inspect_thin(at(monkeypatch, TPOOL), None, None)
    assert host.messages == ["reserve_metadata_snap"]


def test_what_is_no_metadata_of_a_pool_is_read_as_it_is(host: Host) -> None:
    assert thin_pool.find_pool(DATA) is None
    assert thin_pool.find_pool(os.makedev(8, 0)) is None


def test_metadata_in_use_needs_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotPermittedError, match="in use by tpool"):
        thin_pool.find_pool(METADATA)
