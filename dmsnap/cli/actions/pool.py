"""Pools."""

from collections.abc import Iterator, Sequence

from dmsnap.cli.output import Output, Table, Text
from dmsnap.service.pools import pool
from dmsnap.service.pools.pool import PoolDevice
from dmsnap.service.session import Session
from dmsnap.units import format_size


def list_devices(output: Output, *, names: tuple[str, ...]) -> None:
    with Session.open() as session:
        found = pool.list_devices(session, names)
    output.show(found, describe)


def describe(found: Sequence[PoolDevice]) -> Iterator[Text]:
    if not found:
        yield "no pool is declared"
        return
    yield Table(
        ("POOL", "DEVICE", "SIZE>", "STATE", "VOLUME", ""),
        [
            (
                each.pool,
                each.device,
                "" if each.size_bytes is None else format_size(each.size_bytes),
                each.state,
                each.volume or "",
                each.reason or "",
            )
            for each in found
        ],
    )
