"""Snapshots."""

from collections.abc import Iterator

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.outcome import show_done, show_outcome
from dmsnap.cli.output import Output, Table, Text
from dmsnap.service.session import Session
from dmsnap.service.snapshots import providers
from dmsnap.service.snapshots.providers import Changes, SnapshotView
from dmsnap.units import format_size


def create(
    output: Output, *, origin: str, provider: str | None, cow_percent: int | None, dry_run: bool
) -> None:
    with Session.open() as session:
        taken = providers.create(
            session, origin, provider=provider or "", percent=cow_percent or 0, dry_run=dry_run
        )
    show_outcome(output, taken, describe_taken)


def describe_taken(taken: SnapshotView) -> Iterator[Text]:
    yield f"snapshot {taken.name} of {taken.origin}, by {taken.provider}"


def list_snapshots(output: Output, *, origin: str | None) -> None:
    with Session.open() as session:
        found = providers.list_snapshots(session, origin)
    output.show(found, describe_list)


def describe_list(found: list[SnapshotView]) -> Iterator[Text]:
    if not found:
        yield "there are no snapshots"
        return
    yield Table(
        ("SNAPSHOT", "ORIGIN", "PROVIDER", "CREATED", "USED>"),
        [
            (
                each.name,
                each.origin,
                each.provider,
                format_time(each.created_ns),
                each.invalid_reason or _used(each),
            )
            for each in found
        ],
    )


def _used(found: SnapshotView) -> str:
    if found.room is None:
        return "not known"
    used, total = format_size(found.room.used_bytes), format_size(found.room.total_bytes)
    return f"{used} of {total}"


def changed(output: Output, *, snapshot: str, until: str | None) -> None:
    with Session.open() as session:
        found = providers.changed(session, snapshot, until)
    members = {
        "provider": found.since.provider,
        "since": found.since.name,
        "until": found.until.name if found.until else None,
        "origin": found.since.origin,
        "size_bytes": found.since.size_bytes,
        "bytes": found.extents.bytes,
    }
    output.show_extents(members, found.extents, describe_changes(found))


def describe_changes(found: Changes) -> Iterator[Text]:
    other = found.until.name if found.until else f"{found.since.origin} as it is now"
    yield (
        f"{found.since.name} and {other} may differ in {format_size(found.extents.bytes)}, "
        f"in {len(found.extents)} extents"
    )


def delete(output: Output, *, snapshot: str, dry_run: bool) -> None:
    with Session.open() as session:
        plan = providers.delete(session, snapshot, dry_run=dry_run)
    done = {"operation": "snapshot delete", "snapshot": snapshot}
    show_done(output, plan, done, f"snapshot {snapshot} is removed")
