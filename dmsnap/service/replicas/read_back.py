"""What was copied under a front that serves, read back: a disk may acknowledge and forget."""

from dataclasses import dataclass

from dmsnap._native.copy import CopyOptions
from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue.model import Volume
from dmsnap.errors import AuditError
from dmsnap.service.progress import Progress
from dmsnap.service.replicas import audit as auditing
from dmsnap.service.replicas import rolling
from dmsnap.service.replicas.audit import Audit, AuditResult
from dmsnap.service.session import Session


@dataclass(frozen=True, slots=True)
class Copied:
    """``extents`` of a volume were copied, and ``left_out`` need not be equal on both sides.

    What is written from the era ``since`` on is copied later. ``source`` and ``target`` are
    descriptors, ``name`` is the target's.
    """

    source: int
    target: int
    name: str
    extents: ExtentSet
    left_out: ExtentSet
    since: int


def audited(
    session: Session,
    volume: Volume,
    copied: Copied,
    kind: Audit,
    options: CopyOptions,
    progress: Progress | None = None,
) -> AuditResult:
    """Compare both sides, a sample of them and one of what was copied, past the page cache.

    What differs and has been written since is marked before it can differ. :class:`AuditError`
    when anything else does.
    """
    comparable = ExtentSet.whole(volume.size_bytes).without(copied.left_out)
    sample = auditing.choose(kind, comparable, volume.block_bytes)
    extents = ExtentSet()
    extents.merge(sample.extents)
    extents.merge(auditing.choose(kind, copied.extents, volume.block_bytes).extents)
    compared, different = auditing.compared(
        copied.source,
        copied.target,
        volume.size_bytes,
        extents.within(comparable),
        copied.name,
        progress,
        options,
    )
    if different:
        different = different.without(rolling.marked_since(session, volume, copied.since))
    if different:
        first = next(iter(different))
        raise AuditError(
            f"{different.bytes} bytes of {copied.name} are not what was written to them, the first "
            f"at {first.offset_bytes}: {volume.name} goes on over {volume.backing}",
            hint="the disk forgets what it has acknowledged, or somebody else writes to it",
            device=copied.name,
            offset_bytes=first.offset_bytes,
        )
    return auditing.result(kind, sample, compared, different, copied.left_out)
