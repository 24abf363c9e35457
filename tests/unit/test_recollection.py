"""What a backup adds to what is seen: what nobody could see, and nothing that is seen otherwise."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from catalogue_samples import a_point, a_volume, an_export

from dmsnap.catalogue import excerpt, excerpt_reader, export
from dmsnap.catalogue.excerpt import Excerpt
from dmsnap.catalogue.export import ExportKind
from dmsnap.catalogue.model import Hydration, MountRecord, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.host.lio import state
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery import backup_area
from dmsnap.service.records import backup, published, recollection
from dmsnap.service.records.backup import NOTHING, Recalled
from dmsnap.service.records.evidence import Evidence
from dmsnap.snapshot import stack

MOUNTS = (
    MountRecord("/srv", "ext4", ("rw",)),
    MountRecord("/home/srv", "ext4", (), bind_from="/home"),
)


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(tmp_path / "catalogue.db") as opened:
        yield opened


def evidence(taken: Excerpt | None) -> Evidence:
    return Evidence(None, None, Recalled(taken, 5) if taken else NOTHING)


def taken_of(catalogue: Catalogue, volume: Volume) -> Excerpt:
    catalogue.add_volume(volume)
    return excerpt.take(catalogue, volume.id)


def test_what_cannot_be_seen_is_recalled(catalogue: Catalogue) -> None:
    recorded = replace(
        a_volume(), mounts=MOUNTS, units=("a.service",), left_behind=("/dev/old",), created_ns=77,
        joined=True, device_bytes=2**42,
    )  # fmt: skip
    found = replace(
        recorded, mounts=MOUNTS[:1], units=(), left_behind=(), created_ns=99, joined=False,
        device_bytes=None,
    )  # fmt: skip
    taken = taken_of(catalogue, recorded)
    assert recollection.volume(evidence(taken), found) == recorded
    assert recollection.volume(evidence(None), found) == found


@pytest.mark.parametrize(
    "seen", [MOUNTS[::-1], (MountRecord("/elsewhere", "ext4", ()),)], ids=["two", "another"]
)
def test_mounts_that_are_seen_count(catalogue: Catalogue, seen: tuple[MountRecord, ...]) -> None:
    recorded = replace(a_volume(), mounts=MOUNTS)
    taken = taken_of(catalogue, recorded)
    found = replace(recorded, mounts=seen)
    assert recollection.volume(evidence(taken), found).mounts == seen


def test_where_the_volume_stands_is_not_recalled(catalogue: Catalogue) -> None:
    """What the label and the stack say is so: the backup may be of before a commit."""
    recorded = replace(a_volume(), state=VolumeState.TRIAL, generation=7, backing="/dev/mem")
    taken = taken_of(catalogue, recorded)
    found = replace(recorded, state=VolumeState.PROTECTED, generation=9, backing="/dev/vg/srv")
    assert recollection.volume(evidence(taken), found) == found


def test_points_that_live_get_their_moment_back(catalogue: Catalogue) -> None:
    volume = a_volume()
    live, old, gone = (replace(a_point(volume, n), keep=True) for n in (1, 2, 3))
    catalogue.add_volume(volume)
    catalogue.add_points([live, old, gone])
    catalogue.delete_point(gone.id, "old")
    taken = excerpt.take(catalogue, volume.id)
    seen: dict[str, Any] = {
        "keep": False,
        "window_seconds": 0.0,
        "expires_ns": None,
        "comment": None,
    }
    bare = [
        replace(live, created_ns=9, **seen),
        replace(old, created_ns=8, area_id=None, **seen),
        replace(gone, created_ns=7, **seen),
    ]
    points = recollection.points(taken, bare)
    assert points[0] == live
    said: dict[str, Any] = {"expires_ns": old.expires_ns, "comment": old.comment}
    assert points[1] == replace(bare[1], window_seconds=old.window_seconds, **said)
    assert points[2] == bare[2]
    assert recollection.points(None, bare) == bare
    assert taken.point_ids == sorted([live.id, old.id], key=str)


def test_what_became_of_the_backup_is_said(catalogue: Catalogue) -> None:
    volume = a_volume()
    point = a_point(volume)
    catalogue.add_volume(volume)
    catalogue.add_point(point)
    export.record(catalogue, an_export(volume))
    taken = excerpt.take(catalogue, volume.id)
    said = list(recollection.notes(Recalled(taken, 5), []))
    assert said[0].startswith("1 points were not found")
    assert "LUN 0 of iqn.2026-01.local.dmsnap:srv-1 was exported to" in said[1]
    assert list(recollection.notes(Recalled(reason="it is torn"), [point])) == ["it is torn"]
    assert list(recollection.notes(NOTHING, [])) == []


# a move to another device


@pytest.fixture
def no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "find", lambda _: None)


def moved(catalogue: Catalogue, target: str) -> tuple[Volume, Evidence]:
    recorded = replace(
        a_volume(),
        state=VolumeState.PROTECTED,
        hydration=Hydration("/dev/vg/srv", target, 2**30, 5, "boot:1", 3, "wwid:a"),
    )
    taken = taken_of(catalogue, recorded)
    return replace(recorded, hydration=None, tracking_id="new"), evidence(taken)


@pytest.mark.usefixtures("no_stack")
def test_a_move_is_recalled_and_its_marks_are_not(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recollection, "require_target", lambda *_: None)
    found, known = moved(catalogue, "/dev/new")
    moving, said = recollection.moving(known, found)
    assert moving == Hydration("/dev/vg/srv", "/dev/new", 2**30, 0, "", 0, "wwid:a")
    assert moving.tracking_id != found.tracking_id
    assert said is None


@pytest.mark.usefixtures("no_stack")
@pytest.mark.parametrize("target", ["/dev/missing", "/etc/passwd", "/dev/null", "../x"])
def test_a_target_that_is_none_is_not_recorded(catalogue: Catalogue, target: str) -> None:
    """Given up, a move wipes its target: no path that a backup only claims may become one."""
    found, known = moved(catalogue, target)
    moving, said = recollection.moving(known, found)
    assert moving is None
    assert said is not None
    assert "is not recorded again" in said


@pytest.mark.usefixtures("no_stack")
def test_no_move_is_recalled_that_is_through(catalogue: Catalogue) -> None:
    found, known = moved(catalogue, "/dev/new")
    assert recollection.moving(known, replace(found, backing="/dev/new")) == (None, None)
    trial = replace(found, state=VolumeState.TRIAL)
    assert recollection.moving(known, trial) == (None, None)
    assert recollection.moving(evidence(None), found) == (None, None)


# what LIO publishes


VOLUME = UUID("0123abcd-0000-4000-8000-000000000001")
SHOWN = UUID("feedbeefcafe00000000000000000000")


def a_lun(root: Path, serial: UUID, devno: str, *, iqn: str = "srv", name: str = "") -> None:
    """A target with a LUN over a backstore, as configfs shows them."""
    name = name or f"dmsnap-{serial.hex[:12]}-3"
    core = root / "target" / "core" / "iblock_0" / name
    (core / "wwn").mkdir(parents=True)
    (core / "enable").write_text("1\n")
    major, minor = devno.split(":")
    (core / "info").write_text(f"Major: {major} Minor: {minor} CLAIMED: IBLOCK readonly: 0\n")
    (core / "wwn" / "vpd_unit_serial").write_text(f"T10 VPD Unit Serial Number: {serial}\n")
    group = root / "target" / "iscsi" / f"{state.IQN_PREFIX}{iqn}" / "tpgt_1"
    (group / "lun" / "lun_0").mkdir(parents=True)
    (group / "lun" / "lun_0" / "link").symlink_to(core)
    (group / "np" / "[::1]:3260").mkdir(parents=True)
    acl = group / "acls" / "iqn.2026-01.org.example:a" / "lun_0"
    acl.mkdir(parents=True)
    (acl / "write_protect").write_text("0\n")
    (group / "enable").write_text("1\n")


@pytest.fixture
def configfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for function in ("targets", "luns", "backstore_of_lun", "find_backstore", "portals",
                     "initiators", "is_write_protected"):  # fmt: skip
        real = getattr(state, function)
        monkeypatch.setattr(
            state, function, lambda *given, real=real: real(*given, configfs=tmp_path)
        )
    uuids = {7: f"DMSNAP-{VOLUME}-export-feedbeefcafe"}
    monkeypatch.setattr(SYSFS.__class__, "dm_uuid", lambda _, devno: uuids.get(devno & 0xFF))
    monkeypatch.setattr(SYSFS.__class__, "size_bytes", lambda _, _devno: 2**20)
    monkeypatch.setattr(
        "dmsnap.service.records.evidence.stable_path", lambda _: "/dev/disk/by-id/x"
    )
    return tmp_path


def a_front(devno: int) -> Any:
    return type("Front", (), {"front": devno, "volume_id": VOLUME})()


def test_exports_are_told_from_lio(configfs: Path) -> None:
    front, point, device = uuid4(), uuid4(), uuid4()
    a_lun(configfs, front, "0:5", iqn="a")
    a_lun(configfs, point, "0:7", iqn="b")
    a_lun(configfs, device, "0:9", iqn="c")
    found = published.look([a_front(5)])
    assert found.problems == ()
    assert [each.source.kind for each in found.exports] == [
        ExportKind.FRONT, ExportKind.POINT, ExportKind.DEVICE,
    ]  # fmt: skip
    first = found.exports[0]
    assert (first.id, first.lun, first.generation, first.portal) == (front, 0, 3, "[::1]:3260")
    assert first.initiators == ("iqn.2026-01.org.example:a",)
    assert (first.complete, first.read_only) == (True, False)
    whole = UUID("feedbeefcafe4444a444444444444444")
    (_, shown) = found.of(VOLUME, [whole])
    assert shown.source.point_id == whole
    assert [each.source.device for each in found.of(None)] == ["/dev/disk/by-id/x"]


def test_what_is_others_is_no_export(configfs: Path) -> None:
    a_lun(configfs, uuid4(), "0:5", iqn="a", name="somebody")
    a_lun(configfs, uuid4(), "0:5", iqn="b", name="dmsnap-0123456789ab-1")
    found = published.look([a_front(5)])
    assert found.exports == ()
    assert len(found.problems) == 1
    assert "is not understood" in found.problems[0]


def test_what_is_published_counts_more_than_what_is_recalled(catalogue: Catalogue) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    recalled = an_export(volume)
    export.record(catalogue, recalled)
    live = replace(recalled, generation=5, created_ns=99)
    with catalogue.statements() as statements:
        export.record_in(statements, live)
    (found,) = export.exports(catalogue)
    assert found == replace(live, created_ns=recalled.created_ns)


# how it is written


def test_a_backup_that_fails_is_a_warning(
    catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    volume = replace(a_volume(), state=VolumeState.PROTECTED, recovery="/dev/missing")
    with backup.kept(catalogue, [volume.name, "device:8:1"]):
        catalogue.add_volume(volume)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "the catalogue of srv is not backed up" in record.getMessage()
    caplog.clear()
    with backup.kept(catalogue, [volume.name]):
        catalogue.volumes()
    assert caplog.records == []


def test_what_fails_is_backed_up_too(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(backup, "keep", lambda _, name: done.append(name))

    def fail() -> None:
        with backup.kept(catalogue, ["b", "a", "b"]):
            catalogue.add_volume(a_volume())
            raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        fail()
    assert done == ["a", "b"]


def test_a_volume_that_is_being_built_or_was_promoted_has_none() -> None:
    volume = a_volume()
    assert not backup.has_backup(replace(volume, state=VolumeState.BUILDING))
    assert not backup.has_backup(replace(volume, state=VolumeState.PROMOTED, recovery=None))
    for settled in (VolumeState.PROTECTED, VolumeState.TRIAL, VolumeState.COMMITTING):
        assert backup.has_backup(replace(volume, state=settled))


def test_a_past_that_is_too_long_is_cut(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = a_volume()
    catalogue.add_volume(volume)
    for number in range(40):
        point = replace(a_point(volume, number), area_id=None)
        catalogue.add_point(point)
        catalogue.delete_point(point.id, f"reason {uuid4()}")
    whole = backup.fitting(catalogue, volume)
    monkeypatch.setattr(backup_area, "MAX_PACKED_BYTES", 2500)
    monkeypatch.setattr(excerpt, "MAX_DELETED", 64)
    cut = backup.fitting(catalogue, volume)
    assert len(backup_area.packed(cut)) <= 2500 < len(whole)
    left = excerpt_reader.decode(cut, volume.id, "x")
    assert 0 < len(left.of("point")) < 40
    assert max(row["created_ns"] for row in left.of("point")) == 39


# what has become the volume itself


def test_of_before_a_commit_only_the_past_is_recalled(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was backed up since: what was published then, or under way, may have ended."""
    monkeypatch.setattr(recollection, "require_target", lambda *_: None)
    monkeypatch.setattr(stack, "find", lambda _: None)
    recorded = replace(
        a_volume(),
        state=VolumeState.PROTECTED,
        device_bytes=2**42,
        hydration=Hydration("/dev/vg/srv", "/dev/new", 2**30, 5, "boot:1", 3),
    )
    point = a_point(recorded)
    catalogue.add_volume(recorded)
    catalogue.add_point(point)
    export.record(catalogue, an_export(recorded))
    recalled = Recalled(excerpt.take(catalogue, recorded.id), 5)
    promoted = replace(
        recorded, state=VolumeState.PROMOTED, device_bytes=2**43, hydration=None, created_ns=1
    )
    then = recollection.of_before(recalled)
    known = Evidence(None, None, then)
    seen = recollection.volume(known, promoted)
    assert seen == replace(promoted, created_ns=recorded.created_ns)
    assert recollection.moving(known, promoted) == (None, None)
    assert not [note for note in recollection.notes(then, [point]) if "exported" in note]
    assert then.excerpt is not None
    assert then.excerpt.of("point") == recalled.excerpt.of("point")  # type: ignore[union-attr]
    assert (then.written_ns, recollection.of_before(NOTHING)) == (5, NOTHING)
    # Else they are.
    known = Evidence(None, None, recalled)
    assert recollection.volume(known, replace(recorded, device_bytes=None)) == recorded
    assert recollection.moving(known, recorded)[0] is not None
