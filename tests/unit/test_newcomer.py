"""Which volumes runs protect by themselves, under what names, and what they leave alone."""

import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from catalogue_samples import a_volume

from dmsnap.catalogue import identity
from dmsnap.catalogue.model import IdentifierKind, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import BusyError, CorruptError, ForeignDeviceError, WrongStateError
from dmsnap.host import blockdev, fstab, inventory
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.dm import device as dm
from dmsnap.host.fstab import Entry
from dmsnap.host.inventory import VolumeKind
from dmsnap.host.signature import Signature
from dmsnap.host.sysfs import Sysfs
from dmsnap.recovery import replica
from dmsnap.service.configuration import coherence
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.configuration.declaration import (
    Declarations,
    Make,
    NewVolumes,
    Policy,
    Pool,
    Store,
    Subclient,
)
from dmsnap.service.pools import pool
from dmsnap.service.pools.pool import PoolDevice, Standing
from dmsnap.service.session import Session
from dmsnap.service.volumes import (
    admission,
    discovery,
    discovery_record,
    live_admission,
    membership,
    newcomer,
    newcomer_obstacle,
)
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.discovery import Discovered, Role
from dmsnap.service.volumes.discovery_record import Seen
from dmsnap.service.volumes.newcomer_name import name_for
from dmsnap.service.volumes.newcomer_obstacle import Judge, Obstacle
from dmsnap.service.volumes.wanted_recovery import WantedRecovery
from dmsnap.units import GIB, MIB

UUID = "11112222-3333-4444-8555-666677778888"
DISK = Discovered(
    "/dev/sdb1", VolumeKind.PARTITION, Role.UNPROTECTED, None, f"{UUID}@part:aaaa", "ext4", UUID,
    GIB, (), 5, label="data set", settled=True,
)  # fmt: skip
LV = replace(
    DISK, device="/dev/mapper/vg--a-data--b", kind=VolumeKind.LOGICAL_VOLUME, fs_uuid="99",
    identity="99@lv:XYZ", mount_points=("/srv",), label="",
)  # fmt: skip
PROTECTING = Policy(new_volumes=NewVolumes.PROTECT, pool="disks", store="fast")
DECLARED = Declarations(
    store={"fast": Store(directory="/fast")},
    pool={"disks": Pool(("/dev/pool",)), "more": Pool(("/dev/lying", "/dev/gone"))},
    policy={"daily": PROTECTING},
    subclient={"default": Subclient(policy="daily"), "x": Subclient(volumes=("data_set",))},
)


def number(name: str) -> int:
    return os.makedev(8, zlib.crc32(name.encode()) % 2**16)


class Host:
    """What a host's devices are, as far as a test says it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue) -> None:
        self.session = Session(Configuration(), catalogue)
        self.below: set[tuple[str, str]] = set()  # the first lies on the second
        self.files: dict[str, str] = {}
        self.users: dict[str, str] = {}
        self.fstab: list[Entry] = []
        self.removable = False
        self.dm_uuid = ""
        self.label: Callable[[], object] = lambda: None
        self.live: Exception | None = None
        self.offers = [PoolDevice("disks", "/dev/pool", 2 * GIB, Standing.FREE)]
        self.dm_names: set[str] = set()
        self.names: dict[int, str] = {}
        patch = monkeypatch.setattr
        patch(BlockDevice, "probe", self.probe)
        patch(blockdev, "depends_on", self.depends_on)
        patch(blockdev, "file_depends_on", lambda path, devno: self.files.get(str(path)) ==
              self.names.get(devno))  # fmt: skip
        patch(blockdev, "disks_below", lambda devno: {devno})
        patch(blockdev, "describe_users_of", lambda devno: self.users.get(self.names[devno], ""))
        patch(Sysfs, "integer", lambda *_: int(self.removable))
        patch(Sysfs, "dm_uuid", lambda *_: self.dm_uuid)
        patch(fstab, "entries", lambda: self.fstab)
        patch(fstab, "devno_of", lambda spec: number(spec) if spec.startswith("/") else None)
        patch(replica, "read_label", lambda _: self.label())
        patch(live_admission, "admit", self.admit)
        patch(pool, "survey", lambda *_: self.offers)
        patch(dm, "info", lambda name: name if name in self.dm_names else None)
        patch(newcomer_obstacle, "_devices_of", lambda store: [self.probe(Path(store)).devno])

    def probe(self, path: Path) -> BlockDevice:
        if path.name == "gone":
            raise CorruptError("it is gone")
        self.names[number(str(path))] = str(path)
        return BlockDevice(path, number(str(path)), GIB, 512, False)

    def depends_on(self, devno: int, other: int) -> bool:
        upper, lower = self.names[devno], self.names[other]
        return upper == lower or (upper, lower) in self.below

    def admit(self, *_asked: object) -> None:
        if self.live:
            raise self.live

    def obstacle(self, volume: Discovered, *others: Discovered) -> Obstacle | None:
        return Judge(self.session, DECLARED, [volume, *others]).obstacle(volume)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return Host(monkeypatch, Catalogue.open(tmp_path / "catalogue.db"))


# what is in the way


def test_what_nobody_uses_and_a_mounted_lv_may_be_protected(host: Host) -> None:
    assert host.obstacle(DISK) is None
    assert host.obstacle(LV, DISK) is None


def carrying_label() -> object:
    return object()


def broken_label() -> object:
    raise CorruptError("the label is damaged")


CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("a partition that is mounted", "no logical volume", {"mount_points": ("/srv",)}, {}),
    ("a loop device", "is a loop device", {"kind": VolumeKind.LOOP}, {}),
    ("a dm device of others", "dm device", {"kind": VolumeKind.DM}, {"dm_uuid": "docker-1"}),
    ("what is taken along", "can be taken out", {}, {"removable": True}),
    ("what hosts boot from", "holds vfat", {"fs_type": "vfat"}, {}),
    ("a cluster's", "holds gfs2", {"fs_type": "gfs2"}, {}),
    ("without a UUID", "has no UUID", {"fs_uuid": ""}, {}),
    ("in use", "open in qemu", {}, {"users": {"/dev/sdb1": "open in qemu (pid 7)"}}),
    ("with a label", "a label of dmsnap's", {}, {"label": carrying_label}),
    ("with a broken label", "the label is damaged", {}, {"label": broken_label}),
    ("with a store", "the store /fast", {}, {"below": {("/fast", "/dev/sdb1")}}),
    ("below a pool", "lies on it", {}, {"below": {("/dev/lying", "/dev/sdb1")}}),
    ("above a pool", "it lies on what", {}, {"below": {("/dev/sdb1", "/dev/lying")}}),
    ("of a pool", "the pool disks offers it", {"device": "/dev/pool"}, {}),
    ("the root", "/ lies on it", {}, {"files": {"/": "/dev/sdb1"}}),
    ("the catalogue", "/run/dmsnap lies on it", {}, {"files": {"/run/dmsnap": "/dev/sdb1"}}),
    ("a boot partition", "fstab mounts it on /boot", {},
     {"fstab": [Entry(f"UUID={UUID}", "/boot", "ext4", ())]}),
    ("a boot partition by path", "fstab mounts it on /boot", {},
     {"fstab": [Entry("/dev/sdb1", "/boot", "ext4", ())]}),
    ("gone", "cannot be looked at", {"device": "/dev/gone"}, {}),
    ("nothing free", "nothing that is free", {}, {"offers": []}),
    ("too large", "has free has 512 MiB", {},
     {"offers": [PoolDevice("disks", "/dev/p", 512 * MIB, Standing.FREE)]}),
    ("all taken", "nothing that is free", {},
     {"offers": [PoolDevice("disks", "/dev/p", 2 * GIB, Standing.TAKEN)]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "volume", "around"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_is_left_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch, reason: str, volume: Any, around: Any
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _path: True)
    for name, value in around.items():
        setattr(host, name, value)
    found = host.obstacle(replace(DISK, **volume))
    assert found is not None
    assert reason in found.reason


def test_an_opened_luks_device_may_be_protected(host: Host) -> None:
    host.dm_uuid = "CRYPT-LUKS2-aaaa-open"
    assert host.obstacle(replace(DISK, kind=VolumeKind.DM)) is None


def test_an_lv_that_cannot_be_live_is_left_mounted(host: Host) -> None:
    host.live = WrongStateError("its table is of thin")
    found = host.obstacle(LV)
    assert found is not None
    assert "would have to be unmounted (its table is of thin)" in found.reason
    assert host.obstacle(replace(LV, mount_points=())) is None


def test_twins_are_left_alone_whatever_the_other_is(host: Host) -> None:
    for role in Role:
        other = replace(DISK, device="/dev/sdc1", role=role)
        found = host.obstacle(DISK, other)
        assert found is not None
        assert "/dev/sdc1 carry the same" in found.reason
        assert not found.by_hand


def test_a_lun_that_nobody_has_seen_may_suffice(host: Host) -> None:
    host.offers = [PoolDevice("disks", "iscsi://x", None, Standing.UNSEEN)]
    assert host.obstacle(DISK) is None


# what was unprotected on purpose


def test_what_was_unprotected_is_not_protected_again(host: Host) -> None:
    catalogue = host.session.catalogue
    volume = replace(a_volume(), state=VolumeState.PROTECTED, fs_uuid=UUID)
    catalogue.add_volume(volume)
    assert host.obstacle(DISK) is None
    catalogue.remove_volume(volume.id)
    found = host.obstacle(DISK)
    assert found is not None
    assert "was unprotected as srv" in found.reason


@pytest.mark.parametrize(
    ("kind", "value", "holder"),
    [
        (IdentifierKind.LV_UUID, "XYZ", "lv:XYZ"),
        (IdentifierKind.WWID, "naa.5", "wwid:naa.5"),
        (IdentifierKind.LINK, "/dev/disk/by-partuuid/aaaa", "part:aaaa"),
    ],
)
def test_a_device_that_was_formatted_since_is_known_by_itself(
    host: Host, kind: IdentifierKind, value: str, holder: str
) -> None:
    catalogue = host.session.catalogue
    volume = replace(a_volume(), state=VolumeState.PROTECTED, fs_uuid="")
    catalogue.add_volume(volume)
    identity.record(catalogue, volume.id, [(kind, value)])
    catalogue.remove_volume(volume.id)
    assert host.obstacle(replace(DISK, identity=f"{UUID}@{holder}")) is not None
    assert host.obstacle(replace(DISK, identity=f"{UUID}@{holder}-other")) is None
    assert host.obstacle(replace(DISK, identity=f"{UUID}@")) is None


def test_a_first_copy_that_came_to_no_end_is_no_purpose(host: Host) -> None:
    catalogue = host.session.catalogue
    volume = replace(a_volume(), state=VolumeState.BUILDING, fs_uuid=UUID)
    catalogue.add_volume(volume)
    catalogue.remove_volume(volume.id)
    assert host.obstacle(DISK) is None


# names


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "data_set"),
        ({"label": ""}, "ext4-11112222"),
        ({"label": "../../etc $(rm)"}, "etc_rm"),
        ({"label": "é"}, "ext4-11112222"),
        ({"label": "x" * 99}, "x" * 64),
        ({"kind": VolumeKind.LOGICAL_VOLUME, "device": "/dev/mapper/vg--a-data--b"}, "vg-a_data-b"),
    ],
)
def test_names_are_of_what_a_volume_is_known_as(change: Any, expected: str) -> None:
    assert name_for(replace(DISK, **change), ()) == expected


@pytest.mark.parametrize("label", ["commit", "revert", "dmsnap-x", "DATA"])
def test_names_that_are_taken_or_mean_something_get_a_mark(label: str) -> None:
    volume = replace(DISK, label=label)
    name = name_for(volume, {"DATA"})
    assert name is not None
    assert name != label
    admission.check_name(name)
    assert name_for(replace(volume, device="/dev/sdz9", first_seen_ns=9), {"DATA"}) == name
    other = name_for(replace(volume, identity="other"), {"DATA"})
    assert other not in (name, label)


def test_no_name_is_given_twice(host: Host) -> None:
    host.dm_names = {"vg-a_data-b"}
    second = replace(DISK, device="/dev/sdc1", identity="b@part:b", fs_uuid="b", label="mine")
    third = replace(second, device="/dev/sdd1", identity="c@part:c", fs_uuid="c", first_seen_ns=6)
    found = newcomer.judged(host.session, DECLARED, [third, DISK, LV, second])
    names = {each.device: each.joins_as or "" for each in found}
    assert [each.device for each in found] == ["/dev/sdd1", "/dev/sdb1", LV.device, "/dev/sdc1"]
    assert names["/dev/sdc1"] == "mine"
    assert names["/dev/sdd1"].startswith("mine-")
    # Of the sub-client x, though it is not protected yet; LVM's own.
    assert names["/dev/sdb1"].startswith("data_set-")
    assert names[LV.device].startswith("vg-a_data-b-")


def test_nothing_is_judged_without_a_policy_that_protects(host: Host) -> None:
    reporting = replace(DECLARED, policy={"daily": Policy()})
    assert newcomer.judged(host.session, reporting, [DISK]) == [DISK]
    nowhere = replace(DECLARED, subclient={"other": Subclient(policy="daily")})
    assert newcomer.judged(host.session, nowhere, [DISK]) == [DISK]
    left_out = replace(DISK, left_out=True)
    assert newcomer.judged(host.session, DECLARED, [left_out]) == [left_out]


# whose turn it is


def test_the_next_is_what_waits_longest_and_was_not_tried() -> None:
    first, second = replace(DISK, joins_as="a"), replace(LV, joins_as="b", first_seen_ns=9)
    assert newcomer.ready([second, first]) == first
    assert newcomer.ready([second, replace(first, settled=False)]) == second
    assert newcomer.next_one([second, replace(first, settled=False)]).joins_as == "a"  # type: ignore[union-attr]
    assert newcomer.ready([second, replace(first, tried_ns=1)]) == second
    assert newcomer.ready([replace(second, tried_ns=2), replace(first, tried_ns=3)]) == replace(
        second, tried_ns=2
    )
    assert newcomer.ready([DISK]) is None


def test_it_must_have_been_the_same_at_the_last_look() -> None:
    fresh = replace(DISK, settled=False)
    before = Seen(DISK.identity, "/dev/sdx", GIB, 3, None, False)
    for known, expected in (
        (before, True),
        (replace(before, size_bytes=GIB + 512), False),
        (replace(before, mounted=True), False),
        (replace(before, mounted=None), False),
    ):
        (found,) = discovery.compared([fresh], {DISK.identity: known}, 9)
        assert found.settled is expected
    (found,) = discovery.compared([fresh], {}, 9)
    assert (found.settled, found.new) == (False, True)
    (found,) = discovery.compared([fresh], {DISK.identity: replace(before, tried_ns=8)}, 9)
    assert discovery.seen(found) == replace(before, device=DISK.device, tried_ns=8)


def test_an_attempt_is_remembered(tmp_path: Path) -> None:
    seen = [discovery.seen(DISK), discovery.seen(LV)]
    discovery_record.write(tmp_path, seen)
    discovery_record.note_attempt(tmp_path, DISK.identity, 77)
    discovery_record.note_attempt(tmp_path, "another", 78)
    known = discovery_record.read(tmp_path)
    assert {each: seen.tried_ns for each, seen in known.items()} == {
        DISK.identity: 77,
        LV.identity: None,
    }


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    text = '[{"identity": "a", "device": "/dev/a", "size_bytes": 1, "first_seen_ns": 2}]'
    (tmp_path / discovery_record.FILE).write_text(text)
    assert discovery_record.read(tmp_path) == {"a": Seen("a", "/dev/a", 1, 2)}


# what is said


def test_what_is_left_alone_is_told_of_with_the_way_out() -> None:
    by_hand = replace(DISK, obstacle=Obstacle("it is a loop device"), mount_points=("/srv",))
    kept = replace(DISK, obstacle=Obstacle("/ lies on it", by_hand=False))
    tried = replace(DISK, joins_as="data", tried_ns=10**18)
    fine = replace(DISK, joins_as="data")
    first, second, third = discovery.unprotected([by_hand, kept, tried, fine], DECLARED)
    assert first.startswith(f"/dev/sdb1 (ext4, UUID {UUID}), mounted on /srv is not protected by")
    assert "dmsnap protect /dev/sdb1 --name NAME --pool disks, or leave it out of the" in first
    assert second.endswith("as / lies on it: leave it out of the sub-client default")
    assert "not protected yet, though a run tried" in third


# the configuration


def flaws(policy: Policy, **others: Subclient) -> list[str]:
    declared = replace(
        DECLARED, policy={"daily": policy, "other": Policy()},
        subclient={**DECLARED.subclient, **others},
    )  # fmt: skip
    return [
        f"{'.'.join(map(str, each.key))}: {each.sentence}" for each in coherence.flaws(declared)
    ]


def test_a_policy_that_protects_needs_a_pool() -> None:
    assert flaws(PROTECTING) == []
    (flaw,) = flaws(replace(PROTECTING, pool=None))
    assert flaw.startswith("policy.daily.new_volumes: needs the key pool")
    (flaw,) = flaws(replace(PROTECTING, pool=None, make=Make.SNAPSHOT))
    assert flaw.startswith('policy.daily.new_volumes: means nothing where make = "snapshot"')
    (dangling,) = coherence.dangling(DECLARED, {"store": ["fast"], "pool": ["disk"],
                                                "policy": ["daily"]})  # fmt: skip
    assert (dangling.sentence, dangling.nearest) == ("there is no pool 'disks'", "disk")


def test_no_other_policy_may_decide_about_what_joins() -> None:
    both = Subclient(include=("default",), policy="other")
    (flaw,) = flaws(PROTECTING, both=both)
    assert flaw.startswith("subclient.both.policy: the policy other would decide about points of ")
    assert "new volumes" in flaw
    assert flaws(replace(PROTECTING, new_volumes=NewVolumes.REPORT), both=both) == []


def test_what_joined_is_under_the_policy_until_a_sub_client_names_it(host: Host) -> None:
    catalogue = host.session.catalogue
    for name, state, joined in (
        ("new", VolumeState.PROTECTED, True),
        ("data_set", VolumeState.PROTECTED, True),
        ("building", VolumeState.BUILDING, True),
        ("mine", VolumeState.PROTECTED, False),
    ):
        catalogue.add_volume(replace(a_volume(name), state=state, joined=joined))
    declared = membership.declared_with_joined(host.session, DECLARED)
    assert coherence.volumes_of(declared.subclient, "default") == ["new"]
    assert coherence.policies_of(declared, "new") == {"primary": "daily", "history": "daily"}
    assert coherence.policies_of(declared, "mine") == {}
    nobody = replace(DECLARED, subclient={})
    assert membership.declared_with_joined(host.session, nobody) == nobody


# under the lock


def test_what_is_not_as_it_was_found_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = Signature(fs_type="ext4", uuid=UUID, usage="filesystem")
    backing = BlockDevice(Path("/dev/sdb1"), 1, GIB, 512, False)
    request = ProtectRequest(
        Path("/dev/sdb1"), "srv", WantedRecovery(), "", 65536, 4096, identity=f"{UUID}@part:aaaa"
    )
    holder, users = ["part:aaaa"], [""]
    monkeypatch.setattr(inventory, "holder_of", lambda *_, **__: holder[0])
    monkeypatch.setattr(blockdev, "describe_users", lambda _: users[0])
    admission.check_as_found(request, backing, content)
    for other in (None, Signature(fs_type="ext4"), replace(content, uuid="x")):
        with pytest.raises(ForeignDeviceError, match="when it was found"):
            admission.check_as_found(request, backing, other)
    users[0] = "mounted on /srv"
    with pytest.raises(BusyError, match="in use by now: mounted on /srv"):
        admission.check_as_found(request, backing, content)
    admission.check_as_found(replace(request, live=True), backing, content)
    holder[0] = "part:bbbb"
    with pytest.raises(ForeignDeviceError):
        admission.check_as_found(replace(request, live=True), backing, content)
    arguments = request.as_arguments()
    assert (arguments["device"], arguments["recovery"]) == ("/dev/sdb1", "")
    assert ProtectRequest.from_arguments(arguments) == request
