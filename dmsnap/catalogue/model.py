"""The catalogue's values."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class VolumeState(StrEnum):
    """Where a volume stands."""

    BUILDING = "building"  # protect has begun and has not finished
    PROTECTED = "protected"
    TRIAL = "trial"  # the front shows the recovery volume, under an overlay
    COMMITTING = "committing"  # the overlay is being merged into the recovery volume
    PROMOTED = "promoted"  # the former recovery volume is the primary; failback leads back


# It serves from its own device: neither being made, nor in trial, nor being merged.
SETTLED = (VolumeState.PROTECTED, VolumeState.PROMOTED)


class AreaRole(StrEnum):
    """What a piece of the store is for."""

    ERA_METADATA = "era-metadata"
    SPARE = "era-spare"  # metadata that dm-era has formatted, for the next generation
    UNFINISHED_SPARE = "era-spare-unfinished"
    RETIRED = "era-retired"  # of a front that was smaller; nobody has it open for long any more
    COW = "cow"
    OVERLAY = "overlay"
    BROWSE = "browse"


@dataclass(frozen=True, slots=True)
class MountRecord:
    """How a volume was mounted: enough to mount it again in the same way.

    ``bind_from`` is set for a bind mount: the directory of the volume that is bound. For what is
    mounted ``inside`` the volume, and is not its own, it is where that is kept meanwhile. ``over``
    counts what lies below it at the same mount point, and is not the volume's own.
    """

    mount_point: str
    fs_type: str
    options: tuple[str, ...]
    bind_from: str = ""
    inside: bool = False
    over: int = 0


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a promoted volume and its former primary parted: what failback needs of that moment.

    ``since`` is the first era of the former primary's metadata that counts. ``reason`` says why its
    marks cannot be trusted, None: they can, as long as neither side was written past its stack:
    ``tracking_id`` is the promoted volume's then, ``boot_id`` and ``sectors_written`` are of the
    kernel's count of writes to the former primary. ``device_bytes`` is what that had, 0: not known.

    While a failback is recorded, and it is not known that the front has gone over, the same of the
    volume that it comes from: ``since`` is the era of what was not copied any more.
    """

    since: int
    reason: str | None
    tracking_id: str
    boot_id: str
    sectors_written: int
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hydration:
    """A volume on its way from ``source`` to ``target``, and how far it is.

    Below ``position_bytes`` the target is the volume, but for what was written in era ``since`` or
    later. That holds under the same ``tracking_id``, and while nobody else wrote to the target:
    ``surplus_sectors`` is what the kernel counted for it beyond our own device over it.
    ``identity`` is the target's (``inventory.device_identity``): after a boot its path may lead to
    another device. Empty: not known.
    """

    source: str
    target: str
    position_bytes: int
    since: int
    tracking_id: str
    surplus_sectors: int
    identity: str = ""


@dataclass(frozen=True, slots=True)
class LiveFront:
    """The dm device of the LV that is a volume's front until the next boot: LVM's name and UUID.

    After a boot, which ``boot_id`` tells, the volume has a front of its own.
    """

    name: str
    uuid: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A protected volume and the identity by which its applications know it.

    ``left_behind``: devices that it was moved away from, which still carry its file system.
    ``units`` are stopped while the volume is exchanged under its name. ``trial_live``: a trial
    shows a live point on the primary, not one of the recovery volume. ``live``: the layers were
    put under the LV while it was mounted. ``joined``: discovery found it, and it was protected for
    the default sub-client, whose it is as long as no other sub-client names it. ``device_bytes`` is
    what ``backing`` had when the volume came to lie on it; None: what the volume has, or, of one
    that was promoted, not known. ``led_to`` has the paths of which it is known which device they
    led to, each with that (``inventory.device_identity``): after a boot another may be there.
    """

    id: UUID
    name: str
    state: VolumeState
    backing: str
    recovery: str | None
    recovery_id: UUID | None
    store: str
    size_bytes: int
    block_bytes: int
    chunk_bytes: int
    fs_type: str
    fs_uuid: str
    mounts: tuple[MountRecord, ...]
    generation: int
    tracking_id: str
    created_ns: int
    trial_point: UUID | None = None
    previous_backing: str | None = None
    parting: Parting | None = None
    hydration: Hydration | None = None
    left_behind: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    trial_live: bool = False
    live: LiveFront | None = None
    joined: bool = False
    device_bytes: int | None = None
    led_to: tuple[tuple[str, str], ...] = ()

    @property
    def serving(self) -> str:
        """What the front lies on, as it is recorded."""
        in_trial = self.state in (VolumeState.TRIAL, VolumeState.COMMITTING)
        over_replica = in_trial and not self.trial_live
        return self.recovery if over_replica and self.recovery else self.backing


@dataclass(frozen=True, slots=True)
class Area:
    """A piece of a volume's store: a preallocated file behind a loop device, or an LV.

    ``point_id`` is the point that it serves, where it serves one alone.
    """

    id: UUID
    volume_id: UUID
    role: AreaRole
    generation: int
    path: str
    size_bytes: int
    point_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A moment that can be recovered. ``area_id`` is set while it is live on the primary.

    ``expires_ns``: until then it stays, whatever rules say, and not by rules after it.
    """

    id: UUID
    volume_id: UUID
    created_ns: int
    keep: bool
    temporary: bool
    era_since: int
    tracking_id: str
    window_seconds: float
    area_id: UUID | None = None
    invalid_reason: str | None = None
    expires_ns: int | None = None
    comment: str | None = None


class PlaceKind(StrEnum):
    """What a point can be recovered from."""

    LIVE = "live"  # a COW snapshot on the primary
    REPLICA = "replica"  # the recovery volume, as it is
    HISTORY = "history"  # the recovery volume, under undo stores


@dataclass(frozen=True, slots=True)
class RecordedPlace:
    """A place of a point, as it was recorded: ``device`` is a piece of the store or a device."""

    kind: PlaceKind
    device: str
    since_ns: int
    until_ns: int | None


@dataclass(frozen=True, slots=True)
class Deletion:
    """When a point was deleted, why, and by which user; what was not recorded is None."""

    deleted_ns: int
    deleted_reason: str | None
    deleted_by: str | None


@dataclass(frozen=True, slots=True)
class PastPoint:
    """A point at some moment; ``deletion`` is what became of it since."""

    point: Point
    places: tuple[RecordedPlace, ...]
    deletion: Deletion | None

    def is_at(self, kind: PlaceKind) -> bool:
        """Whether one of its places is of that kind."""
        return any(place.kind is kind for place in self.places)


class IdentifierKind(StrEnum):
    """What a device is known by."""

    LINK = "link"  # in /dev/disk
    LV_UUID = "lv-uuid"
    VG_UUID = "vg-uuid"
    WWID = "wwid"  # the disk's own, as sysfs has it


@dataclass(frozen=True, slots=True)
class Identifier:
    """Something that a volume's device is known by, and when that was last so."""

    kind: IdentifierKind
    value: str
    seen_ns: int


class JobState(StrEnum):
    """How far a job is. One that is ``running`` without its process was cut off."""

    RUNNING = "running"
    DONE = "done"
    UNDONE = "undone"  # everything is as it was before
    FAILED = "failed"  # something of it is left
    ABANDONED = "abandoned"  # given up where it was; nothing of it is left that matters


class StepState(StrEnum):
    """How far a step is."""

    PLANNED = "planned"
    BEGUN = "begun"
    DONE = "done"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class JobStep:
    """One step of a job, as it was recorded."""

    name: str
    state: StepState
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """An operation that was begun: with ``arguments`` it could be begun anew."""

    id: int
    operation: str
    arguments: Mapping[str, object]
    volume_ids: tuple[UUID, ...]
    pid: int
    started_ns: int
    finished_ns: int | None
    state: JobState
    outcome: str | None
    steps: tuple[JobStep, ...]

    def has(self, step: str, *states: StepState) -> bool:
        """Whether a step of that name is in one of these states."""
        return any(each.name == step and each.state in states for each in self.steps)

    def has_begun(self, step: str) -> bool:
        """Whether something of that step may have been done."""
        return self.has(step, StepState.BEGUN, StepState.DONE)

    @property
    def last_begun(self) -> str | None:
        """The step that it was at, or had come to."""
        begun = [step.name for step in self.steps if step.state is not StepState.PLANNED]
        return begun[-1] if begun else None
