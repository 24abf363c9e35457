"""Mounting a point: read-only, over a throwaway overlay that takes the journal's replay."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue.model import AreaRole, Volume
from dmsnap.errors import BusyError, NotFoundError, PointInvalidError, WrongStateError
from dmsnap.host import mount, mountinfo, signature
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Snapshot, single
from dmsnap.host.system_call import system_call
from dmsnap.recovery import chain
from dmsnap.service import journal
from dmsnap.service.journal import Plan, Step
from dmsnap.service.luns.luns import Wanted
from dmsnap.service.points.point import Place, PointView, find
from dmsnap.service.reaper import held
from dmsnap.service.session import Session
from dmsnap.snapshot import stack
from dmsnap.snapshot.space import plan_area
from dmsnap.units import MIB

# A frozen file system needs no replay; the room is for one that was not, and for atime.
OVERLAY_BYTES = 64 * MIB
OVERLAY_CHUNK_BYTES = 4096
OPTIONS = ("ro", "nodev", "nosuid", "noexec")

# XFS refuses a second mount of one UUID unless told otherwise; ext4 does not look at it.
TWIN_OPTIONS = {"ext4": (), "ext3": (), "ext2": (), "xfs": ("nouuid",)}


@dataclass(frozen=True, slots=True)
class BrowseResult:
    """Where a point can be looked at."""

    point: UUID
    volume: str
    mount_point: str


class Browse:
    """The plan that mounts a point."""

    def __init__(self, session: Session, volume: Volume, view: PointView, at: Path | None) -> None:
        if dm.info(uuid=stack.browse(volume, view.id).uuid) is not None:
            raise BusyError(f"point {view.id} is mounted already")
        self.session = session
        self.volume = volume
        self.view = view
        self.place = best_place(view)
        if self.place.kind != "live":
            chain.find(volume, view.id)  # refused before anything is made
        self.directory = at or session.configuration.run_directory / "points" / view.id.hex[:12]
        self.made_directory = False
        self.overlay = plan_area(volume, AreaRole.BROWSE, OVERLAY_BYTES, point_id=view.id)

    def plan(self) -> Plan:
        return Plan(
            "point mount",
            (self.volume.id,),
            [
                Step(
                    "create-overlay",
                    f"create a throwaway overlay in {self.volume.store}",
                    self._create,
                    self._release,
                ),
                Step(
                    "show-point",
                    f"show point {self.view.id} ({self.place.kind}) under it",
                    self._show,
                    self._hide,
                ),
                Step("mount", f"mount it on {self.directory}", self._mount, self._unmount),
            ],
            {"text": str(self.view.id), "at": str(self.directory)},
        )

    def _create(self) -> None:
        self.session.create_area(self.volume, self.overlay)

    def _release(self) -> None:
        self.session.release_area(self.volume, self.overlay)

    def _show(self) -> None:
        below = self._point_device()
        cow = stack.attach_area(self.volume, self.overlay)
        device = stack.browse(self.volume, self.view.id)
        table = single(
            self.volume.size_bytes,
            Snapshot(below, cow.devno, OVERLAY_CHUNK_BYTES, persistent=False),
        )
        dm.create(device.name, device.uuid, table)

    def _point_device(self) -> int:
        if self.place.kind == "live":
            return stack.require(stack.live_point(self.volume, self.view.id)).devno
        return chain.show(self.volume, self.view.id, chain.browse_purpose(self.view.id))

    def _hide(self) -> None:
        hide(self.volume, self.view.id)

    def _mount(self) -> None:
        """The point itself says what it holds: the volume may have been formatted since."""
        node = dm.node(stack.browse(self.volume, self.view.id).name)
        content = signature.probe(node)
        fs_type = (content.fs_type if content else None) or ""
        if fs_type not in TWIN_OPTIONS:
            raise WrongStateError(
                f"point {self.view.id} of {self.volume.name} holds {content or 'no file system'}: "
                f"it cannot be mounted beside the volume"
            )
        present = mountinfo.mount_at(self.directory.resolve())
        if present is not None:
            raise BusyError(
                f"{present.source} is mounted on {self.directory}",
                hint="unmount it first, or give another directory",
            )
        if not self.directory.is_dir():
            with system_call(f"make the directory {self.directory}"):
                self.directory.mkdir(parents=True)
            self.made_directory = True
        mount.mount(node, self.directory, fs_type, (*OPTIONS, *TWIN_OPTIONS[fs_type]))

    def _unmount(self) -> None:
        unmount_browse(self.session, self.volume, self.view.id)
        if self.made_directory:
            self.directory.rmdir()


def best_place(view: PointView) -> Place:
    """A live snapshot before the replica, the replica before its history."""
    if not view.places:
        raise PointInvalidError(
            f"point {view.id} cannot be shown: {view.invalid_reason or 'it lives nowhere'}"
        )
    return view.places[0]


def hide(volume: Volume, point_id: UUID) -> None:
    """Remove the overlay's device and whatever lies below it for this purpose."""
    device = stack.browse(volume, point_id)
    stack.remove(device)
    chain.remove(chain.existing(volume, chain.browse_purpose(point_id)))


def unmount_browse(session: Session, volume: Volume, point_id: UUID) -> list[str]:
    """Unmount a point wherever it is mounted; returns the places."""
    info = dm.info(uuid=stack.browse(volume, point_id).uuid)
    if info is None:
        return []
    places = [str(entry.mount_point) for entry in mountinfo.mounts_of(info.devno)]
    for place in places:
        mount.unmount(Path(place), session.configuration.unmount_wait_seconds)
    return places


def require_unmounted(session: Session, volume: Volume) -> None:
    """Raise while a point of the volume is mounted: its replica must not change under it."""
    for area in session.catalogue.areas(volume.id, AreaRole.BROWSE):
        raise mounted(volume, area.point_id)


def require_point_unmounted(session: Session, volume: Volume, point_id: UUID) -> None:
    """Raise while one point is mounted."""
    if any(
        area.point_id == point_id for area in session.catalogue.areas(volume.id, AreaRole.BROWSE)
    ):
        raise mounted(volume, point_id)


def mounted(volume: Volume, point_id: UUID | None) -> BusyError:
    """The error that says what to do about a point that is mounted."""
    return BusyError(
        f"point {point_id} of {volume.name} is mounted",
        hint=f"dmsnap point umount {point_id} comes first",
    )


def mount_point(
    session: Session, text: str, at: Path | None, *, dry_run: bool
) -> BrowseResult | Plan:
    """Mount a point read-only at ``at``, or below the run directory. Needs root."""
    wanted = find(session, text)
    with held(session, wanted.volume) as volume:
        browsing = Browse(session, volume, find(session, text), at)
        plan = browsing.plan()
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
        return BrowseResult(wanted.id, volume.name, str(browsing.directory))


class Unmounting:
    """The plan that unmounts a point, and removes what showed it."""

    def __init__(self, session: Session, volume: Volume, point_id: UUID) -> None:
        self.session = session
        self.volume = volume
        self.point_id = point_id
        browsed = session.catalogue.areas(volume.id, AreaRole.BROWSE)
        self.areas = [area for area in browsed if area.point_id == point_id]
        if not self.areas:
            raise NotFoundError(f"point {point_id} is not mounted")

    def plan(self) -> Plan:
        released = f"give back what it used of {self.volume.store}"
        steps = [
            Step("unmount", f"unmount point {self.point_id}", self._unmount),
            Step("hide-point", "remove its overlay", self._hide, final=True),
            Step("release-overlay", released, self._release, final=True),
        ]
        return Plan("point umount", (self.volume.id,), steps, {"text": str(self.point_id)})

    def _unmount(self) -> None:
        default = self.session.configuration.run_directory / "points"
        for place in unmount_browse(self.session, self.volume, self.point_id):
            if Path(place).parent == default:
                Path(place).rmdir()

    def _hide(self) -> None:
        hide(self.volume, self.point_id)

    def _release(self) -> None:
        for area in self.areas:
            self.session.release_area(self.volume, area)


def unmount_point(session: Session, text: str, *, dry_run: bool) -> Plan | None:
    """Unmount a point and remove its overlay. Needs root."""
    wanted = find(session, text)
    with held(session, wanted.volume, Wanted.SERVING) as volume:
        plan = Unmounting(session, volume, wanted.id).plan()
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
    return None


def again(session: Session, *, text: str, at: str, dry_run: bool) -> object:
    """Begin anew the mounting of a point that was cut off."""
    return mount_point(session, text, Path(at), dry_run=dry_run)
