"""Audits: a replica compared with a point, in samples or in full."""

import random
from dataclasses import dataclass
from enum import StrEnum

from dmsnap._native import copy, digest
from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap.errors import AuditError
from dmsnap.recovery.replica import Replica
from dmsnap.service.progress import Progress, of_total
from dmsnap.service.replicas import sampling
from dmsnap.service.replicas.sampling import Sample
from dmsnap.tracking.choice import Tracker
from dmsnap.units import MIB

# After each sync: together many, one alone must not take long on a slow disk.
SYNC_SAMPLE_BYTES = 64 * MIB
NO_OPTIONS = CopyOptions()


class Audit(StrEnum):
    """How much of the replica is compared with the point."""

    NONE = "none"
    SAMPLE = "sample"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class AuditResult:
    """``bytes_different`` is zero in every result: anything else is an :class:`AuditError`.

    ``blocks`` could be compared, ``blocks_compared`` were; blocks are dm-era's.
    ``detection_probability`` is that of one wrong block in 10,000, of a single one among fewer.
    ``bytes_skipped`` were never copied, since the file system did not use them.
    """

    kind: Audit
    bytes_compared: int = 0
    bytes_different: int = 0
    bytes_skipped: int = 0
    blocks: int = 0
    blocks_compared: int = 0
    detection_probability: float = 0.0


def choose(
    kind: Audit, comparable: ExtentSet, block_bytes: int, sample_bytes: int = SYNC_SAMPLE_BYTES
) -> Sample:
    """What to compare of what can be compared."""
    if kind is Audit.FULL:
        return sampling.everything(comparable, block_bytes)
    count = max(sample_bytes // block_bytes, 1)
    return sampling.draw(comparable, block_bytes, count, random.Random())  # noqa: S311


def differences(
    source_fd: int,
    replica: Replica,
    extents: ExtentSet,
    progress: Progress | None = None,
    options: CopyOptions = NO_OPTIONS,
) -> tuple[int, ExtentSet]:
    """As :func:`compared`, of a replica."""
    size_bytes, name = replica.label.size_bytes, str(replica.device.path)
    return compared(source_fd, replica.fd, size_bytes, extents, name, progress, options)


def compared(
    source_fd: int,
    target_fd: int,
    size_bytes: int,
    extents: ExtentSet,
    name: str,
    progress: Progress | None = None,
    options: CopyOptions = NO_OPTIONS,
) -> tuple[int, ExtentSet]:
    """Compare both sides by digests, then byte by byte where those differ.

    Returns the bytes compared and what differs. Pieces that differ the first time and not the
    second were read wrongly at least once: they count as different. A bandwidth among the options
    is that of reading either side.
    """
    nr_bytes, suspects = digest.compare(
        source_fd,
        target_fd,
        size_bytes,
        extents,
        progress=of_total(progress, extents.bytes),
        options=options,
        name=name,
    )
    if not suspects:
        return nr_bytes, suspects
    _, different, _ = copy.compare(
        source_fd, target_fd, size_bytes, suspects, options=options, name=name
    )
    return nr_bytes, different or suspects


def result(
    kind: Audit, sample: Sample, compared: int, different: ExtentSet, skipped: ExtentSet
) -> AuditResult:
    """What an audit found, and what it can promise."""
    return AuditResult(
        kind=kind,
        bytes_compared=compared,
        bytes_different=different.bytes,
        bytes_skipped=skipped.bytes,
        blocks=sample.blocks,
        blocks_compared=sample.sampled,
        detection_probability=sample.detection_probability,
    )


def failure(recovery: str, different: ExtentSet, tracker: Tracker) -> AuditError:
    """What a sync's audit ends with when it found a difference."""
    first = next(iter(different))
    return AuditError(
        f"{different.bytes} bytes of {recovery} differ from the point "
        f"after a sync by {tracker}, the first at {first.offset_bytes}: "
        f"the replica goes back to its former point",
        hint="the next sync compares in full; please report this as a bug",
        tracker=tracker,
        offset_bytes=first.offset_bytes,
    )
