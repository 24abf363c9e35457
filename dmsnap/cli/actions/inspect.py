"""Inspect. Each command imports what it alone needs: reading an image takes less than all that."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.output import Output, Rows, Table, Text
from dmsnap.errors import WrongWordError
from dmsnap.units import format_size

if TYPE_CHECKING:
    from dmsnap.service.inspection.inspect import StoreInspection
    from dmsnap.service.inspection.inspect_era import EraInspection
    from dmsnap.service.inspection.inspect_label import BackupInspection, LabelInspection
    from dmsnap.service.inspection.inspect_thin import PoolInspection


def era(output: Output, *, device: Path, since: int) -> None:
    from dmsnap.service.inspection.inspect_era import inspect_era

    found = inspect_era(device, since)
    if found.front is not None and not found.taken:
        output.notice(
            f"{found.front} holds a metadata snapshot already: what was written after it was "
            f"taken is not shown"
        )
    members = {
        "block_size": found.block_size,
        "nr_blocks": found.nr_blocks,
        "current_era": found.current_era,
        "metadata_snapshot": found.metadata_snapshot,
        "since": found.since,
    }
    output.show_extents(members, found.extents, describe_era(found))


def describe_era(found: "EraInspection") -> Iterator[Text]:
    yield (
        f"era metadata of {found.nr_blocks} blocks of {format_size(found.block_size)}, "
        f"now in era {found.current_era}"
    )
    yield (
        f"written since era {found.since}: {format_size(found.extents.bytes)} "
        f"in {len(found.extents)} extents"
    )


def thin(output: Output, *, device: Path, dev_id: int | None, since: int | None) -> None:
    if dev_id is None and since is not None:
        raise WrongWordError("--since says what --device is compared with: give both")
    from dmsnap.service.inspection.inspect_thin import inspect_thin

    found = inspect_thin(device, dev_id, since)
    tell_about_pool(output, found)
    members: dict[str, object] = {
        "block_size": found.block_size,
        "transaction_id": found.transaction_id,
        "metadata_snapshot": found.metadata_snapshot,
        "needs_check": found.needs_check,
    }
    if found.rows is None:
        members["devices"] = found.devices
        output.show(members, lambda _: describe_pool(found))
        return
    members |= {"device": dev_id, "since": since}
    output.show_extents(members, Rows(found.rows), describe_thin(found, dev_id, since))


def tell_about_pool(output: Output, found: "PoolInspection") -> None:
    if found.pool is not None and not found.taken:
        output.notice(
            f"{found.pool} holds a metadata snapshot already: what was written after it was taken "
            f"is not shown"
        )
    if found.needs_check:
        output.notice("the kernel found the metadata damaged and wants thin_check to look at it")


def describe_pool(found: "PoolInspection") -> Iterator[Text]:
    yield (
        f"a thin pool of {found.data_nr_blocks} blocks of {format_size(found.block_size)}, "
        f"transaction {found.transaction_id}, {len(found.devices)} devices"
    )
    if found.devices:
        yield Table(
            ("DEVICE>", "MAPPED>", "TRANSACTION>", "CREATED AT>", "SNAPSHOTTED AT>"),
            [
                (
                    str(device.dev_id),
                    format_size(device.mapped_blocks * found.block_size),
                    str(device.transaction_id),
                    str(device.creation_time),
                    str(device.snapshotted_time),
                )
                for device in found.devices
            ],
        )


def describe_thin(found: "PoolInspection", dev_id: int | None, since: int | None) -> Iterator[Text]:
    if since is None:
        yield f"thin device {dev_id} maps {format_size(found.total_bytes)}: extent, data offset"
    else:
        yield f"thin device {dev_id} differs from {since} in {format_size(found.total_bytes)}"


def store(output: Output, *, device: Path) -> None:
    from dmsnap.service.inspection.inspect import inspect_store

    found = inspect_store(device)
    members = {
        "chunk_size": found.chunk_size,
        "valid": found.valid,
        "exceptions": found.exceptions,
    }
    output.show_extents(members, found.extents, describe_store(found))


def describe_store(found: "StoreInspection") -> Iterator[Text]:
    if not found.valid:
        yield "an exception store that the kernel gave up: it is worth nothing"
        return
    yield (
        f"an exception store of {found.exceptions} chunks of {format_size(found.chunk_size)}, "
        f"in {len(found.extents)} extents of the origin"
    )


def describe_backup(backup: "BackupInspection | None") -> str:
    """In words: what there is of the catalogue."""
    if backup is None:
        return "no room for one"
    if backup.problem:
        return backup.problem
    if backup.written_ns is None:
        return "none yet"
    return (
        f"of {format_time(backup.written_ns)}, number {backup.generation}: "
        f"{format_size(backup.content_bytes or 0)} in {format_size(backup.packed_bytes or 0)}"
    )


def label(output: Output, *, device: Path) -> None:
    from dmsnap.service.inspection.inspect_label import inspect_label

    output.show(inspect_label(device), describe_label)


def describe_label(label: "LabelInspection") -> Iterator[Text]:
    yield f"recovery volume of {label.name} ({label.volume_uuid}), written by {label.host or '-'}"
    yield f"  recovery volume  {label.recovery_uuid}"
    yield f"  state            {label.state.name.lower()}"
    yield f"  replica          {format_size(label.size_bytes)}, {label.fs_type or 'no file system'}"
    if label.point_uuid:
        yield f"  point            {label.point_uuid} of {format_time(label.point_time_ns)}"
    if label.next_point_uuid:
        moment = format_time(label.next_point_time_ns)
        yield f"  next point       {label.next_point_uuid} of {moment}"
    yield (
        f"  history          {len(label.history)} points in "
        f"{format_size(label.history_length_bytes)} at {label.history_offset_bytes}"
    )
    yield f"  backup           {describe_backup(label.backup)}"
    if label.history:
        yield Table(
            ("EARLIER POINT", "CREATED", "UNDO STORE AT>", "SIZE>", "KEEP"),
            [
                (
                    str(entry.point_uuid),
                    format_time(entry.point_time_ns),
                    str(entry.store_offset_bytes),
                    format_size(entry.store_length_bytes),
                    "keep" if entry.flags else "",
                )
                for entry in label.history
            ],
        )
