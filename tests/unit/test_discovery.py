"""What a look at the host has to say."""

from dataclasses import replace
from pathlib import Path

import pytest

from dmsnap.host.inventory import HostVolume, Unread, VolumeKind
from dmsnap.service.configuration import coherence
from dmsnap.service.configuration.declaration import Declarations, NewVolumes, Policy, Subclient
from dmsnap.service.volumes import discovery, discovery_record
from dmsnap.service.volumes.discovery import Discovered, Role
from dmsnap.service.volumes.discovery_record import Seen
from dmsnap.units import GIB

SDB = Discovered(
    "/dev/sdb", VolumeKind.DISK, Role.UNPROTECTED, None, "1234@wwid:a", "ext4", "1234", GIB,
    ("/srv",), 5,
)  # fmt: skip
SDC = replace(SDB, device="/dev/sdc", identity="1234@wwid:b", mount_points=())


def declared(subclient: Subclient | None = None, **policies: Policy) -> Declarations:
    return Declarations(
        policy=dict(policies), subclient={"default": subclient} if subclient else {}
    )


def test_what_was_not_there_before_is_new_and_keeps_its_date() -> None:
    before = {SDB.identity: Seen(SDB.identity, "/dev/sdx", GIB, 7)}
    old, new = discovery.compared([SDB, SDC], before, 9)
    assert (old.new, old.first_seen_ns) == (False, 7)
    assert (new.new, new.first_seen_ns) == (True, 9)


def test_twins_are_told_of_and_known_copies_are_not() -> None:
    (sentence,) = discovery.twins([SDB, SDC])
    assert sentence.startswith("/dev/sdb and /dev/sdc carry the same file system UUID 1234")
    for role in (Role.RECOVERY, Role.LEFT_BEHIND):
        assert not list(discovery.twins([SDB, replace(SDC, role=role, volume="srv")]))
    protected = replace(SDB, role=Role.PROTECTED, volume="srv")
    assert list(discovery.twins([protected, SDC]))
    several = [replace(each, fs_type="btrfs") for each in (SDB, SDC)]
    assert not list(discovery.twins(several))
    nameless = [replace(each, fs_uuid="") for each in (SDB, SDC)]
    assert not list(discovery.twins(nameless))


def test_two_paths_to_one_disk_are_called_that() -> None:
    (sentence,) = discovery.twins([SDB, replace(SDB, device="/dev/sdc")])
    assert sentence.endswith("they are paths to one disk")
    loops = [replace(SDB, device=device, identity="1234@") for device in ("/dev/a", "/dev/b")]
    (sentence,) = discovery.twins(loops)
    assert sentence.endswith("one is a copy of the other")


def test_what_vanished_and_what_was_resized_is_told_by_identity() -> None:
    """A disk that has another name only is the same."""
    before = {
        each.identity: Seen(each.identity, device, size, 1)
        for each, device, size in ((SDB, "/dev/sdz", GIB), (SDC, "/dev/sdc", GIB // 2))
    }
    assert not list(discovery.vanished([SDB, SDC], before))
    (gone,) = discovery.vanished([SDB], before)
    assert gone == "/dev/sdc (1234@wwid:b) has vanished since the last look"
    (resized,) = discovery.resized([], [SDB, SDC], before)
    assert "from 512 MiB to 1 GiB" in resized


def test_what_does_not_answer_is_named_and_has_not_vanished() -> None:
    before = {each.identity: Seen(each.identity, each.device, GIB, 1) for each in (SDB, SDC)}
    hanging = Unread(8, Path("/dev/sdd"), "wwid:b", suspended=False)
    assert not list(discovery.vanished([SDB], before, [hanging]))
    (sentence,) = discovery.unanswered([], before, [hanging])
    assert sentence.startswith("/dev/sdd does not answer: its disk seems to hang")
    other = replace(hanging, holder="wwid:c")
    assert len(list(discovery.vanished([SDB], before, [other]))) == 1
    assert len(list(discovery.unanswered([], before, [other]))) == 1
    # By its path, where nothing else is known of it.
    nameless = Unread(8, Path("/dev/sdc"), "", suspended=True)
    assert not list(discovery.vanished([SDB], before, [nameless]))
    assert "is suspended" in next(discovery.unanswered([], before, [nameless]))
    assert not list(discovery.unanswered([], {}, [nameless]))


def test_without_a_default_sub_client_nothing_is_asked_for() -> None:
    assert not list(discovery.unprotected([SDB], declared()))


def test_the_default_sub_clients_policy_says_whether_new_volumes_are_told_of() -> None:
    plain = declared(Subclient())
    (sentence,) = discovery.unprotected([SDB], plain)
    assert "/dev/sdb (ext4, UUID 1234), mounted on /srv is not protected" in sentence
    quiet = declared(Subclient(policy="quiet"), quiet=Policy(new_volumes=NewVolumes.IGNORE))
    assert not list(discovery.unprotected([SDB], quiet))
    assert not list(discovery.unprotected([replace(SDB, left_out=True)], plain))
    protected = replace(SDB, role=Role.PROTECTED, volume="srv")
    assert not list(discovery.unprotected([protected], plain))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("/srv",), True),
        (("1234",), True),
        (("/dev/sdb",), True),
        (("/dev/sdc", "/srv2", "12"), False),
        (("",), False),
    ],
)
def test_volumes_are_left_out_by_what_they_are_known_as(
    words: tuple[str, ...], *, expected: bool
) -> None:
    assert discovery.is_left_out(SDB, declared(Subclient(left_out=words))) is expected


@pytest.mark.parametrize(
    ("path", "backing_file", "expected"),
    [
        ("/dev/mapper/vg-dmsnap--srv--cow--g1--0123456789ab--01234567", None, True),
        ("/dev/mapper/vg-srv", None, False),
        ("/dev/loop3", "/var/lib/dmsnap/store/srv-cow-g1-0123456789ab-01234567.img", True),
        ("/dev/loop3", "/srv/disk.img", False),
    ],
)
def test_pieces_of_a_store_are_no_volumes(
    path: str, backing_file: str | None, *, expected: bool
) -> None:
    volume = HostVolume(1, Path(path), VolumeKind.LOOP, GIB, "ext4", "1234", "", (), backing_file)
    assert discovery.is_piece(volume) is expected


def test_there_is_one_default_sub_client() -> None:
    both = Declarations(subclient={"all": Subclient(default=True), "default": Subclient()})
    assert coherence.default_of(both) == "all"
    found = [(flaw.key, flaw.sentence) for flaw in coherence.flaws(both)]
    assert found == [(("subclient", "default"), "is a second default sub-client beside all")]
    named = Declarations(subclient={"x": Subclient(volumes=("a",), left_out=("/boot",))})
    (flaw,) = coherence.flaws(named)
    assert flaw.key == ("subclient", "x", "left_out")


# the record


def test_what_was_seen_is_read_again(tmp_path: Path) -> None:
    assert discovery_record.read(tmp_path) == {}
    seen = [discovery.seen(SDB), discovery.seen(SDC)]
    discovery_record.write(tmp_path, seen)
    assert discovery_record.read(tmp_path) == {each.identity: each for each in seen}
    before = (tmp_path / discovery_record.FILE).stat().st_ino
    discovery_record.write(tmp_path, seen)
    assert (tmp_path / discovery_record.FILE).stat().st_ino == before


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b'[{"identity": 1}]', b"\xff\xfe", b"{}x"])
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / discovery_record.FILE).write_bytes(content)
    assert discovery_record.read(tmp_path) == {}
