"""Inspect. Each command imports what it alone needs: reading an image takes less than all that."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.output import Output, Table, Text
from dmsnap.units import format_size

if TYPE_CHECKING:
    from dmsnap._native.label import Label
    from dmsnap.service.inspect import StoreInspection
    from dmsnap.service.inspect_era import EraInspection


def era(output: Output, *, device: Path, since: int) -> None:
    from dmsnap.service.inspect_era import inspect_era

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


def store(output: Output, *, device: Path) -> None:
    from dmsnap.service.inspect import inspect_store

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


def label(output: Output, *, device: Path) -> None:
    from dmsnap.service.inspect import inspect_label

    output.show(inspect_label(device), describe_label)


def describe_label(label: "Label") -> Iterator[Text]:
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
