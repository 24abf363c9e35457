"""Publication: the steps that put one export behind a LUN. Each makes what is missing of it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue import export as recorded
from dmsnap.catalogue.export import Export, Source
from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import DmsnapError, ForeignDeviceError, PointInvalidError, WrongStateError
from dmsnap.host import interface, inventory
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.device_path import names_device
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Linear, single
from dmsnap.host.lio import state, target
from dmsnap.recovery import chain
from dmsnap.service.exports import export_unit, exported
from dmsnap.service.journal import Step
from dmsnap.service.points.point import Place, find
from dmsnap.service.session import Session
from dmsnap.snapshot import stack


class Publication:
    """What one export takes: a device to show, a backstore over it, a target with a LUN."""

    def __init__(self, session: Session, export: Export) -> None:
        interface.require_local(export.address)
        self.session = session
        self.export = export
        self.shown = Shown(session, export.source)

    def steps(self) -> list[Step]:
        """Those of a new export: cut off anywhere, nothing is to be left of it."""
        what = self.shown.name
        return [
            Step("record", f"record the export of {what}", self._record, self._forget),
            *self.again(),
            Step("confirm", f"record that {what} is exported", self._confirm, self._unconfirm),
        ]

    def again(self) -> list[Step]:
        """Those of an export that is recorded, and of which something is missing.

        What is there stays when a step fails: initiators may be using it.
        """
        export, what = self.export, self.shown.name
        self.shown.require_as_recorded()
        has_backstore = state.find_backstore(export.backstore) is not None
        has_target = state.has_target(export.target)
        has_lun = has_target and state.backstore_of_lun(export.target, export.lun) is not None
        is_enabled = state.is_enabled(export.target)
        return [
            *self.shown.steps(),
            Step(
                "create-backstore",
                f"make {what} a backstore of LIO, with the serial number {export.id}",
                self._create_backstore,
                None if has_backstore else partial(target.remove_backstore, export.backstore),
            ),
            Step(
                "create-target",
                f"make the target {export.target} for {', '.join(export.initiators)}",
                self._create_target,
                None if has_target else partial(target.remove_target, export.target),
            ),
            Step(
                "map-lun",
                f"map the backstore as LUN {export.lun}{', read-only' * export.read_only}",
                partial(
                    target.map_lun,
                    export.target,
                    export.lun,
                    export.backstore,
                    read_only=export.read_only,
                ),
                None if has_lun else partial(target.unmap_lun, export.target, export.lun),
            ),
            Step(
                "enable",
                f"listen at {export.portal}",
                self._enable,
                None if is_enabled else partial(target.disable, export.target),
            ),
        ]

    def _record(self) -> None:
        recorded.record(self.session.catalogue, replace(self.export, complete=False))

    def _forget(self) -> None:
        recorded.forget(self.session.catalogue, self.export.id)

    def _create_backstore(self) -> None:
        target.prepare()
        create_backstore(self.export, self.shown)

    def _create_target(self) -> None:
        target.create_target(self.export.target, self.export.initiators)

    def _enable(self) -> None:
        target.add_portal(self.export.target, self.export.address, self.export.port)
        target.enable(self.export.target)

    def _confirm(self) -> None:
        recorded.record(self.session.catalogue, self.export)
        export_unit.settle(self.session)

    def _unconfirm(self) -> None:
        self._record()
        export_unit.settle(self.session)


class Shown:
    """The device behind a LUN: found where it is there, made where it is a point."""

    def __init__(self, session: Session, source: Source) -> None:
        self.session = session
        self.source = source
        self.volume: Volume | None = None
        if source.volume_id is not None:
            self.volume = session.catalogue.volume_by_id(source.volume_id)

    @property
    def name(self) -> str:
        """For people."""
        volume, point_id = self.volume, self.source.point_id
        if volume is None:
            return str(self.source.device)
        return volume.name if point_id is None else f"point {point_id} of {volume.name}"

    def require_as_recorded(self) -> None:
        """Raise where a device of no volume is another than the one that was exported."""
        if self.volume is None:
            plain_device(self.source)

    def steps(self) -> list[Step]:
        """Those that make the device."""
        volume, point_id = self.volume, self.source.point_id
        if volume is None or point_id is None:
            return []
        place = self._place(volume)
        return [
            Step(
                "show-point",
                f"show point {point_id} ({place.kind}) read-only",
                partial(show_point, volume, point_id, place),
                partial(exported.hide_point, volume, exported.mark(point_id)),
            )
        ]

    def device(self) -> BlockDevice:
        """The device, as it is now."""
        if self.volume is None:
            return plain_device(self.source)
        point_id = self.source.point_id
        name = (
            stack.front(self.volume)
            if point_id is None
            else stack.exported(self.volume, exported.mark(point_id))
        )
        return BlockDevice.probe(dm.node(stack.require(name).name))

    def _place(self, volume: Volume) -> Place:
        if volume.state is VolumeState.COMMITTING and volume.trial_point == self.source.point_id:
            raise WrongStateError(f"{volume.name} is being made of this point: it is no more")
        view = find(self.session, str(self.source.point_id), [volume.name])
        if not view.places:
            raise PointInvalidError(
                f"point {view.id} cannot be exported: "
                f"{view.invalid_reason or 'it lives nowhere any more'}"
            )
        place = view.places[0]
        shown = stack.exported(volume, exported.mark(view.id))
        if place.kind != "live" and not stack.exists(shown):
            chain.find(volume, view.id)  # refused before anything is made
        return place


def create_backstore(export: Export, shown: Shown) -> None:
    """The backstore of an export's present generation."""
    target.create_backstore(
        export.backstore, shown.device(), str(export.id), read_only=export.read_only
    )


def show_point(volume: Volume, point_id: UUID, place: Place) -> None:
    """A read-only device of the volume's size over a live snapshot, the replica or a level."""
    device = stack.exported(volume, exported.mark(point_id))
    if stack.exists(device):
        return
    below = below_point(volume, point_id, place)
    table = single(volume.size_bytes, Linear(below, 0))
    try:
        dm.create(device.name, device.uuid, table, read_only=True)
    except BaseException:
        exported.hide_point(volume, exported.mark(point_id))
        raise


def below_point(volume: Volume, point_id: UUID, place: Place) -> int:
    """The number of the device that holds the point."""
    if place.kind == "live":
        return stack.require(stack.live_point(volume, point_id)).devno
    purpose = chain.export_purpose(exported.mark(point_id))
    chain.remove(chain.existing(volume, purpose))
    return chain.show(volume, point_id, purpose)


def plain_device(source: Source) -> BlockDevice:
    """A device of no volume; another one may have its name after a boot."""
    device = BlockDevice.probe(Path(str(source.device)))
    if device.size_bytes != source.size_bytes:
        raise ForeignDeviceError(
            f"{source.device} has {device.size_bytes} bytes, it had {source.size_bytes} when it "
            f"was exported",
            hint=f"dmsnap unexport {source.device}, and export it again",
        )
    known, found = source.led_to or "", inventory.device_identity(device.devno)
    if known and found != known and not names_device(str(source.device)):
        raise ForeignDeviceError(
            f"{source.device} is {found} now, and was {known} when it was exported",
            hint=f"have that there again, or dmsnap unexport {source.device}",
        )
    return device


def problem(session: Session, export: Export) -> str | None:
    """What is wrong with an export, in a sentence; None when initiators can use it."""
    shown = Shown(session, export.source)
    if not export.complete:
        return f"the export of {shown.name} was interrupted"
    if not exported.is_whole(export):
        return f"{shown.name} is not exported as LUN {export.lun} of {export.target}"
    backstore = state.find_backstore(export.backstore)
    if backstore is None or backstore.devno != _devno(shown):
        return f"LUN {export.lun} of {export.target} does not show {shown.name}"
    return None


def _devno(shown: Shown) -> int | None:
    try:
        return shown.device().devno
    except DmsnapError:
        return None
