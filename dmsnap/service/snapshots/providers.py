"""The snapshot providers that are installed: finding them, and what people do with them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from dmsnap._native.extent_set import ExtentSet
from dmsnap.catalogue.model import Job
from dmsnap.errors import DmsnapError, NotFoundError, WrongStateError, WrongWordError
from dmsnap.host import lvm, lvm_snapshot
from dmsnap.service.journal import Plan
from dmsnap.service.session import Session
from dmsnap.service.snapshots import logical_snapshot
from dmsnap.service.snapshots.snapshot_provider import Provider, Room, Snapshot

GROUP = "dmsnap.snapshot_providers"


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """A snapshot as people see it. ``room`` is None where nobody can say."""

    provider: str
    name: str
    origin: str
    size_bytes: int
    created_ns: int
    room: Room | None
    invalid_reason: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a snapshot and a later one, or its origin (``until`` None)."""

    since: Snapshot
    until: Snapshot | None
    extents: ExtentSet


def load(session: Session) -> dict[str, Provider]:
    """Every provider that is installed, by name. One that cannot be loaded names itself."""
    found: dict[str, Provider] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            made: Callable[[Session], Provider] = point.load()
        except (ImportError, AttributeError) as error:
            raise WrongStateError(
                f"the snapshot provider {point.name} ({point.value}) cannot be loaded: {error}",
                provider=point.name,
            ) from error
        found[point.name] = made(session)
    return found


def named(session: Session, name: str) -> Provider:
    """The provider of that name, else :class:`NotFoundError`."""
    known = load(session)
    if name not in known:
        raise NotFoundError(
            f"there is no snapshot provider {name!r}",
            hint=f"there are {', '.join(known) or 'none'}",
            provider=name,
        )
    return known[name]


def serving(session: Session, origin: str) -> Provider:
    """The provider that takes snapshots of ``origin``."""
    for provider in load(session).values():
        if provider.serves(origin):
            return provider
    raise NotFoundError(
        f"nobody takes snapshots of {origin!r}: it is neither a protected volume nor a logical "
        f"volume VG/LV",
        origin=origin,
    )


def find(session: Session, name: str) -> tuple[Provider, Snapshot]:
    """The snapshot called ``name``, and whose it is: ``VG/LV``, a point's id, or its beginning."""
    missed: NotFoundError | None = None
    for provider in load(session).values():
        try:
            found = provider.find(name)
        except NotFoundError as error:
            missed = missed or error
        else:
            if found is not None:
                return provider, found
    raise missed or NotFoundError(
        f"there is no snapshot {name!r}",
        hint="dmsnap snapshot list shows the snapshots",
        snapshot=name,
    )


def create(
    session: Session, origin: str, *, provider: str = "", percent: int = 0, dry_run: bool = False
) -> SnapshotView | Plan:
    """Take a snapshot of a protected volume or a logical volume. Needs root."""
    chosen = named(session, provider) if provider else serving(session, origin)
    if not chosen.serves(origin):
        raise WrongWordError(f"the provider {chosen.name} takes no snapshots of {origin!r}")
    taken = chosen.take(origin, percent=percent, dry_run=dry_run)
    return taken if isinstance(taken, Plan) else view(chosen, taken)


def list_snapshots(session: Session, origin: str | None = None) -> list[SnapshotView]:
    """All snapshots, or those of one origin, oldest first. Holds no lock: a look, and no more."""
    views = [
        view(provider, snapshot)
        for provider in load(session).values()
        for snapshot in provider.snapshots()
        if origin in (None, snapshot.origin)
    ]
    return sorted(views, key=lambda each: each.created_ns)


def view(provider: Provider, snapshot: Snapshot) -> SnapshotView:
    """A snapshot, and how full that is which it depends on."""
    room = None
    if snapshot.invalid_reason is None:
        with suppress(DmsnapError):
            room = provider.room(snapshot)
    return SnapshotView(
        provider=snapshot.provider,
        name=snapshot.name,
        origin=snapshot.origin,
        size_bytes=snapshot.size_bytes,
        created_ns=snapshot.created_ns,
        room=room,
        invalid_reason=snapshot.invalid_reason,
    )


def changed(session: Session, since: str, until: str | None) -> Changes:
    """In which bytes a snapshot may differ from another one, or from its origin. Needs root."""
    provider, first = find(session, since)
    second = None
    if until is not None:
        other, second = find(session, until)
        if other.name != provider.name:
            raise WrongWordError(f"{since} and {until} are snapshots of two providers")
    with provider.held(first):
        return Changes(first, second, provider.changed(first, second))


def delete(session: Session, name: str, *, dry_run: bool = False) -> Plan | None:
    """Remove a snapshot. Needs root."""
    provider, found = find(session, name)
    return provider.remove(found, dry_run=dry_run)


def create_again(
    session: Session, *, origin: str, provider: str, percent: int, dry_run: bool, **_name: Any
) -> object:
    """Begin anew the taking of a snapshot that was cut off."""
    return create(session, origin, provider=provider, percent=percent, dry_run=dry_run)


def delete_again(session: Session, *, snapshot: str, dry_run: bool, **_name: Any) -> object:
    """Begin anew the removal of a snapshot that was cut off."""
    return delete(session, snapshot, dry_run=dry_run)


def settle_creation(session: Session, job: Job) -> bool:
    """Whether a snapshot that was being taken is there; what LVM left of half a one is removed."""
    vg, _, name = str(job.arguments["snapshot"]).partition("/")
    with session.locked([str(job.arguments["name"])]):
        found = lvm_snapshot.find(vg, name)
        taken = logical_snapshot.read(found) if found is not None else None
        if found is None or taken is None:
            return False
        if found.is_thin or found.is_thick_snapshot:
            return True
        lvm.remove_lv(vg, name)
        return False


def settle_removal(session: Session, job: Job) -> bool:
    """Whether a snapshot that was being removed is gone, and not its whole group."""
    vg, _, name = str(job.arguments["snapshot"]).partition("/")
    with session.locked([str(job.arguments["name"])]):
        return lvm_snapshot.find(vg, name) is None and lvm.volume_group(vg) is not None
