"""Swapping a LUN: another backstore behind the same number, serial number and WWN."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.export import Export, ExportKind, Source
from dmsnap.errors import BlockSizeError, BusyError, TooSmallError, WrongStateError
from dmsnap.host.blockdev import open_shared
from dmsnap.host.lio import state, target
from dmsnap.host.system_call import system_call
from dmsnap.service import journal
from dmsnap.service.exports import export, exported, publication
from dmsnap.service.exports.export_list import ExportView, view
from dmsnap.service.exports.export_source import (
    find_export,
    held,
    of_no_volume,
    resolve,
    volume_ids,
)
from dmsnap.service.exports.publication import Shown
from dmsnap.service.journal import Plan, Step
from dmsnap.service.session import Session


class LunSwap:
    """The plan, in the order flush, unmap, map; the initiators' part is to scan again.

    The new backstore is there before the old one is unmapped, and the old one until the new one is
    recorded: cut off anywhere, the next command maps what is recorded.
    """

    def __init__(
        self,
        session: Session,
        before: Export,
        source: Source,
        arguments: Mapping[str, object],
    ) -> None:
        self.session = session
        self.arguments = arguments
        self.before = before
        self.after = replace(
            before,
            source=source,
            generation=before.generation + 1,
            # Writing to a point is never meant; a LUN that showed one stays read-only.
            read_only=before.read_only or source.kind is ExportKind.POINT,
        )
        self.old, self.new = Shown(session, before.source), Shown(session, source)
        self._check()

    def _check(self) -> None:
        problem = publication.problem(self.session, self.before)
        if problem:
            raise WrongStateError(problem, hint="dmsnap export restore comes first")
        existing = export.of_source(self.session, self.after.source)
        if existing is not None:
            raise BusyError(
                f"{self.new.name} is exported already, as LUN {existing.lun} of {existing.target}"
            )
        export.require_exportable(self.session, self.after.source, self.after)
        had, has = self.before.source.size_bytes, self.after.source.size_bytes
        if has < had:
            raise TooSmallError(self.new.name, has, had, f"the LUN that shows {self.old.name}")

    def plan(self) -> Plan:
        before, after = self.before, self.after
        where = f"LUN {before.lun} of {before.target}"
        return Plan(
            "lun swap",
            volume_ids(before.source, after.source),
            [
                *self.new.steps(),
                Step(
                    "create-backstore",
                    f"make {self.new.name} a backstore with the serial number {after.id}",
                    self._create_backstore,
                    partial(target.remove_backstore, after.backstore),
                ),
                Step("flush", f"flush {self.old.name}", self._flush),
                Step(
                    "unmap",
                    f"unmap {where}",
                    partial(target.unmap_lun, before.target, before.lun),
                    partial(self._map, before),
                ),
                Step(
                    "map",
                    f"map {self.new.name} as {where}",
                    partial(self._map, after),
                    partial(target.unmap_lun, before.target, before.lun),
                ),
                Step(
                    "record",
                    f"record that {where} shows {self.new.name}",
                    partial(recorded.record, self.session.catalogue, after),
                    partial(recorded.record, self.session.catalogue, before),
                ),
                Step(
                    "remove-backstore",
                    f"remove the backstore of {self.old.name}",
                    self._remove_old,
                    final=True,
                ),
            ],
            arguments=self.arguments,
        )

    def _create_backstore(self) -> None:
        """Initiators count in logical blocks, and have learnt their size."""
        had = self.old.device().logical_block_bytes
        has = self.new.device().logical_block_bytes
        if has != had:
            raise BlockSizeError(
                f"{self.new.name} has logical blocks of {has} bytes, {self.old.name} of {had}: "
                f"initiators would read and write at other places",
                hint="unexport the one and export the other: that is another LUN",
            )
        publication.create_backstore(self.after, self.new)

    def _flush(self) -> None:
        """What initiators wrote is on the disk before another one answers for it."""
        path = self.old.device().path
        with open_shared(path, direct=False) as descriptor, system_call(f"flush {path}"):
            os.fsync(descriptor)

    def _map(self, shown: Export) -> None:
        target.map_lun(shown.target, shown.lun, shown.backstore, read_only=shown.read_only)

    def _remove_old(self) -> None:
        target.remove_backstore(self.before.backstore)
        point_id = self.before.source.point_id
        if self.old.volume is not None and point_id is not None:
            exported.hide_point(self.old.volume, exported.mark(point_id))


def swap_lun(
    session: Session, what: str, to: str, *, force: bool, dry_run: bool
) -> ExportView | Plan:
    """Have the LUN that shows ``what`` show ``to``; refused while somebody is logged in. Root."""
    source = resolve(session, to)
    with held(session, find_export(session, what).source, source):
        before = find_export(session, what)
        arguments = {"what": what, "to": to, "force": force} | of_no_volume(source)
        swapping = LunSwap(session, before, source, arguments)
        users = state.sessions(before.target)
        plan = swapping.plan()
        if dry_run:
            return plan
        if users and not force:
            raise BusyError(
                f"{', '.join(users)} is logged in to {before.target}",
                hint="unmount it there and delete the disk, then give --force",
                sessions=users,
            )
        journal.run(session.catalogue, plan)
        return view(session, swapping.after)


def again(
    session: Session, *, what: str, to: str, force: bool, dry_run: bool, **_source: object
) -> object:
    """Begin anew a swap of a LUN that was cut off."""
    return swap_lun(session, what, to, force=force, dry_run=dry_run)
