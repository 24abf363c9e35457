"""A full copy of a snapshot on another device, which is a volume of its own then.

What makes the device known as a file system comes last, block after block towards its beginning,
each when all that lies behind it is on the disk: whenever the power fails, there is nothing on the
device, or the whole snapshot.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dmsnap._native import copy, digest
from dmsnap._native.copy import CopyOptions, CopyStats
from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue.model import Job, StepState
from dmsnap.errors import AuditError, ForeignDeviceError
from dmsnap.extent import Extent
from dmsnap.host import blockdev, lvm_snapshot, signature
from dmsnap.host.blockdev import BlockDevice, open_exclusive, open_shared
from dmsnap.recovery import replica
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step, StepTimes
from dmsnap.service.points import copy_admission
from dmsnap.service.points.copy_admission import HEAD_BYTES, CopyRequest
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.records import evidence
from dmsnap.service.session import Session
from dmsnap.service.snapshots import logical_snapshot, providers, thin_provider
from dmsnap.service.snapshots.snapshot_provider import HeldOrigin, Provider, Snapshot
from dmsnap.service.volumes.first_copy import require_unchanged, what_is_on
from dmsnap.units import PAGE_BYTES

REVEAL = "reveal"


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What is on ``device`` now. ``fs_uuid`` is that of the origin, too: the two are twins."""

    snapshot: str
    provider: str
    origin: str
    device: str
    fs_type: str | None
    fs_uuid: str | None
    bytes_volume: int
    bytes_written: int
    bytes_zero: int
    bytes_compared: int
    seconds: float
    steps: dict[str, float]


class Copying:
    """The plan of one copy. A context manager: it holds the device until the end."""

    def __init__(
        self,
        session: Session,
        provider: Provider,
        snapshot: Snapshot,
        origin: HeldOrigin,
        request: CopyRequest,
        progress: Progress | None,
    ) -> None:
        self.provider = provider
        self.snapshot = snapshot
        self.origin = origin
        self.request = request
        self.progress = progress
        with provider.shown(snapshot) as source:
            shown = BlockDevice.probe(source)
            self.target = copy_admission.admit(session, shown, origin, request)
            self.content = signature.probe(source)
        self.found = what_is_on(self.target)
        self.size_bytes = shown.size_bytes
        self.head = ExtentSet.whole(min(HEAD_BYTES, self.size_bytes))
        self.body = ExtentSet.whole(self.size_bytes).without(self.head)
        self.written = CopyStats()
        self.bytes_compared = 0
        self._held = ExitStack()
        self._fd = -1
        self._is_ours = False  # the device, as it is when nobody has come between

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()

    def plan(self) -> Plan:
        what, device = self.snapshot.name, self.target.path
        steps = [
            Step(
                "wipe",
                f"wipe {device}",
                self._wipe,
                check=partial(require_unchanged, self.target, self.found),
            ),
            Step("copy", f"copy {what} to {device}, its beginning last", self._copy, self._give_up),
            Step("compare", f"read both again, and compare {device} with {what}", self._compare),
            Step(REVEAL, f"write the beginning of {device}", self._reveal),
        ]
        arguments = {
            "name": self.origin.lock,
            "point": what,
            "onto": evidence.stable_path(self.target.devno),
            "overwrite": self.request.overwrite,
            "bandwidth": self.request.bandwidth,
        }
        return Plan("point copy", self.origin.volume_ids, steps, arguments)

    def _wipe(self) -> None:
        """Behind the copy, what was on the device would still be found."""
        replica.make_blank(self.target.path)
        blockdev.clear_start(self.target.path, min(HEAD_BYTES, self.target.size_bytes))

    def _copy(self) -> None:
        self._fd = self._held.enter_context(open_exclusive(self.target.path, write=True))
        content = signature.probe(self.target.path)
        if content is not None:
            raise ForeignDeviceError(f"somebody has written to {self.target.path}: {content}")
        self._is_ours = True
        self._apply(self.body)

    def _apply(self, extents: ExtentSet, *, told: bool = True) -> None:
        with self.provider.shown(self.snapshot) as source, open_shared(source) as source_fd:
            stats = copy.apply(
                source_fd,
                self._fd,
                self.size_bytes,
                extents,
                zero_detection=True,
                progress=of_total(self.progress, extents.bytes) if told else None,
                options=self._options(source),
                name=str(self.target.path),
            )
        self.written = CopyStats(
            bytes_written=self.written.bytes_written + stats.bytes_written,
            bytes_zero=self.written.bytes_zero + stats.bytes_zero,
        )

    def _options(self, source: Path) -> CopyOptions:
        return CopyOptions(bytes_per_second=self.request.bandwidth, source_name=str(source))

    def _compare(self) -> None:
        self._require_equal(self.body)

    def _require_equal(self, extents: ExtentSet) -> None:
        with self.provider.shown(self.snapshot) as source, open_shared(source) as source_fd:
            compared, different = digest.compare(
                source_fd,
                self._fd,
                self.size_bytes,
                extents,
                progress=of_total(self.progress, extents.bytes),
                options=self._options(source),
                name=str(self.target.path),
            )
        self.bytes_compared += compared
        if different.bytes:
            raise AuditError(
                f"{self.target.path} does not hold what was written to it: "
                f"{different.bytes} bytes in {len(different)} places differ from "
                f"{self.snapshot.name}",
                device=str(self.target.path),
                bytes_different=different.bytes,
            )

    def _reveal(self) -> None:
        """Each page is on the disk before the one in front of it is written."""
        for page in pages_backwards(self.head):
            self._apply(page, told=False)
        self._require_equal(self.head)

    def _give_up(self) -> None:
        """A part of a file system must not be found by its UUID beside the whole one.

        What somebody else has written to the device, or uses, is theirs.
        """
        self._held.close()
        if self._is_ours:
            self._wipe()

    def result(self, times: StepTimes) -> CopyResult:
        return CopyResult(
            snapshot=self.snapshot.name,
            provider=self.provider.name,
            origin=self.snapshot.origin,
            device=str(self.target.path),
            fs_type=self.content.fs_type if self.content else None,
            fs_uuid=self.content.uuid if self.content else None,
            bytes_volume=self.size_bytes,
            bytes_written=self.written.bytes_written - self.written.bytes_zero,
            bytes_zero=self.written.bytes_zero,
            bytes_compared=self.bytes_compared,
            seconds=times.total,
            steps=times.seconds,
        )


def pages_backwards(head: ExtentSet) -> list[ExtentSet]:
    """The pages of the beginning of a device, the first one last."""
    length_bytes = head.bytes
    offsets = reversed(range(0, length_bytes, PAGE_BYTES))
    return [
        ExtentSet.from_extents([Extent(offset, min(PAGE_BYTES, length_bytes - offset))])
        for offset in offsets
    ]


def copy_point(
    session: Session,
    name: str,
    request: CopyRequest,
    *,
    dry_run: bool,
    progress: Progress | None = None,
) -> CopyResult | Plan:
    """Make a device a copy of a live point, or of a snapshot that LVM took. Needs root."""
    provider, snapshot = providers.find(session, name)
    with (
        provider.held(snapshot) as origin,
        Copying(session, provider, snapshot, origin, request, progress) as copying,
    ):
        plan = copying.plan()
        if dry_run:
            return plan
        return copying.result(journal.run(session.catalogue, plan))


def again(
    session: Session, *, point: str, onto: str, bandwidth: int, dry_run: bool, **_asked: Any
) -> object:
    """Begin anew a copy that was cut off.

    What it was to overwrite it has wiped. Anything that is there now is not overwritten: after a
    boot, the path may lead to another device.
    """
    request = CopyRequest(Path(onto), bandwidth=bandwidth)
    return copy_point(session, point, request, dry_run=dry_run)


def settle(session: Session, job: Job) -> bool:
    """Whether a copy that was cut off is whole; a thin snapshot that it showed is hidden again."""
    words = logical_snapshot.split(str(job.arguments["point"]))
    with session.locked([str(job.arguments["name"])]):
        volume = lvm_snapshot.find(*words) if words else None
        if volume is not None and volume.is_thin and logical_snapshot.read(volume) is not None:
            thin_provider.deactivate(volume)
    return job.has(REVEAL, StepState.DONE)
