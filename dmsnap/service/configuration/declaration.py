"""What ``/etc/dmsnap/*.toml`` can declare: stores, pools, policies, sub-clients and hooks.

Imported only by who needs the tables: pydantic takes a third of a command's start.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

from annotated_types import MinLen

from dmsnap._native.io_priority import IoClass, IoPriority
from dmsnap.policy.copying import Copying, Hours
from dmsnap.policy.pool import Choice
from dmsnap.policy.retention import Retention
from dmsnap.service.configuration.declared_value import (
    AbsolutePath,
    Command,
    Count,
    DeadlineText,
    DeviceName,
    Duration,
    DurationText,
    HoursText,
    IoLevel,
    Line,
    Lines,
    Name,
    RateText,
    SampleText,
)
from dmsnap.service.replicas.audit import Audit
from dmsnap.service.schedules.hooks import Phase

FORBID: dict[str, str] = {"extra": "forbid"}

DEFAULT_SUBCLIENT = "default"


class Make(StrEnum):
    """What a policy makes of a volume: live points, a recovery volume, or both."""

    SNAPSHOT = "snapshot"
    RECOVERY_VOLUME = "recovery-volume"
    BOTH = "both"

    @property
    def sides(self) -> frozenset[str]:
        """Where the policy's points live, so that it has to say how long."""
        snapshot, recovery = frozenset({"primary"}), frozenset({"history"})
        return {Make.SNAPSHOT: snapshot, Make.RECOVERY_VOLUME: recovery}.get(
            self, snapshot | recovery
        )


class DeclaredIoClass(StrEnum):
    """Classes of I/O priority that a policy may ask for."""

    BEST_EFFORT = "best-effort"
    IDLE = "idle"


class NewVolumes(StrEnum):
    """What becomes of volumes that are discovered, under the policy of the default sub-client."""

    REPORT = "report"  # until they are protected, or left out
    PROTECT = "protect"  # by the policy's next runs; what they leave is reported
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Store:
    """Where points, overlays and era metadata go: a directory or a volume group."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    directory: AbsolutePath | None = None
    volume_group: Name | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Devices and LUNs that are offered as recovery volumes."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    volumes: Annotated[tuple[DeviceName, ...], MinLen(1)]
    choose: Choice = Choice.BEST_FIT


@dataclass(frozen=True, slots=True)
class RetentionTable:
    """How long points stay in one place."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    keep: DurationText = Duration(0)  # noqa: RUF009 - an immutable number
    minimum: Count = 1
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0
    yearly: Count = 0

    @property
    def retention(self) -> Retention:
        return Retention(
            int(self.keep), self.minimum, self.hourly, self.daily, self.weekly, self.monthly,
            self.yearly,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CopyTable:
    """When points are copied to the recovery volume."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    delay: DurationText = Duration(0)  # noqa: RUF009 - an immutable number
    hours: HoursText | None = None
    let_pass: Count = 0

    @property
    def copying(self) -> Copying:
        hours = Hours.parse(self.hours) if self.hours else None
        return Copying(int(self.delay), hours, self.let_pass)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is made when, and how long it stays. Without a table of retention nothing goes."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    schedule: Lines = ()
    spread: DurationText = Duration(60)  # noqa: RUF009 - an immutable number
    make: Make = Make.BOTH
    store: str | None = None
    pool: str | None = None
    primary: RetentionTable | None = None
    history: RetentionTable | None = None
    copy: CopyTable | None = None
    hooks: tuple[str, ...] = ()
    audit: Audit = Audit.SAMPLE
    audit_size: SampleText | None = None
    bandwidth: RateText | None = None
    io_class: DeclaredIoClass | None = None
    io_level: IoLevel | None = None
    new_volumes: NewVolumes = NewVolumes.REPORT

    @property
    def io_priority(self) -> IoPriority | None:
        """With which copies and pruning read and write; None: as who runs them."""
        if self.io_class is None:
            return None
        return IoPriority(IoClass[self.io_class.name], self.io_level or 0)


@dataclass(frozen=True, slots=True)
class Subclient:
    """A named set of volumes, of its own and of other sub-clients; they may overlap.

    Of the ``default`` one are all volumes of the host that are not protected, too, but for what is
    ``left_out``: by device, mount point or file-system UUID.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    volumes: tuple[Name, ...] = ()
    include: tuple[str, ...] = ()
    policy: str | None = None
    default: bool = False
    left_out: tuple[Line, ...] = ()

    def is_default(self, name: str) -> bool:
        """Whether discovered volumes join it: it says so, or is called that."""
        return self.default or name == DEFAULT_SUBCLIENT


@dataclass(frozen=True, slots=True)
class Hook:
    """A command that runs in a phase. One that is ``required`` and fails ends what it is for."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    phase: Phase
    command: Command
    deadline: DeadlineText = Duration(60)  # noqa: RUF009 - an immutable number
    required: bool = True


@dataclass(frozen=True, slots=True)
class Declarations:
    """All tables by their names. What they say of each other is checked in ``coherence``."""

    store: dict[str, Store] = field(default_factory=dict)
    pool: dict[str, Pool] = field(default_factory=dict)
    policy: dict[str, Policy] = field(default_factory=dict)
    subclient: dict[str, Subclient] = field(default_factory=dict)
    hook: dict[str, Hook] = field(default_factory=dict)


TABLES: dict[str, type] = {
    "store": Store, "pool": Pool, "policy": Policy, "subclient": Subclient, "hook": Hook,
}  # fmt: skip
NESTED: dict[str, type] = {
    "primary": RetentionTable, "history": RetentionTable, "copy": CopyTable,
}  # fmt: skip
