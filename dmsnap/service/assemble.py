"""Assemble: build the stack of a recorded volume again, after a reboot or a removal by others."""

from dataclasses import replace
from uuid import uuid4

from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import WrongStateError
from dmsnap.host import kernel
from dmsnap.service import identity, journal
from dmsnap.service.assembly import build, mount_front
from dmsnap.service.journal import Plan, Step
from dmsnap.service.reaper import held
from dmsnap.service.session import Session
from dmsnap.snapshot import stack


class Assembly:
    """Build the stack of a recorded volume again, after a reboot or a removal by others."""

    def __init__(self, session: Session, volume: Volume) -> None:
        if volume.state not in (VolumeState.PROTECTED, VolumeState.PROMOTED):
            raise WrongStateError(f"{volume.name} is in state {volume.state}: not assembled")
        identity.require_backing(volume)
        self.session = session
        # A new tracking id: what was written while the stack did not exist was not seen,
        # so the next sync compares.
        self.volume = replace(volume, tracking_id=f"{kernel.boot_id()}:{uuid4()}")

    def plan(self) -> Plan:
        name = self.volume.name
        steps = [
            Step("drop-points", f"drop live points of {name} that broke", self._drop_points),
            Step("distrust", f"distrust the tracking of {name} so far", self._record),
            Step("create-stack", f"build the stack of {name}", self._build),
        ]
        if self.volume.mounts:
            steps.append(Step("mount", f"mount /dev/mapper/{name}", self._mount))
        return Plan("assemble", self.volume.id, steps)

    def _drop_points(self) -> None:
        """A snapshot that was not there while its origin was written to holds no moment."""
        for point in self.session.catalogue.points(self.volume.id):
            if point.area_id is not None:
                self.session.remove_live_point(self.volume, point)
                self.session.catalogue.update_point(
                    replace(
                        point,
                        area_id=None,
                        invalid_reason="its snapshot was not there while the volume was in use",
                    )
                )

    def _record(self) -> None:
        self.session.catalogue.update_volume(self.volume)

    def _build(self) -> None:
        build(self.session, self.volume, self.session.catalogue.areas(self.volume.id))

    def _mount(self) -> None:
        mount_front(self.volume)


def assemble(session: Session, name: str, *, dry_run: bool) -> Plan | None:
    """Build what is missing or wrong of a volume's stack, and mount it. Needs root."""
    with held(session, name) as volume:
        areas = session.catalogue.areas(volume.id)
        points = session.catalogue.points(volume.id)
        if not stack.problems(volume, areas, points):
            return None
        plan = Assembly(session, volume).plan()
        if dry_run:
            return plan
        journal.run(session.catalogue, plan)
    return None
