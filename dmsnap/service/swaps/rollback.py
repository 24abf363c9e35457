"""Rollback: the commit of a trial over a live point. The primary goes back to it, while it serves.

The point's COW store is merged into the primary by the kernel, then the overlay. Other live points
stay what they are: the kernel copies for them what either merge overwrites, where they have room.
As in a promotion no step has an undo: interrupted, it is finished by running it again.

::

    front   era                  front   era              front   era
      overlay  snapshot            overlay  snapshot-merge   origin  snapshot-origin
        point  snapshot-merge        point  linear             primary
          primary                      former origin
                                         primary
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from dmsnap.catalogue.model import Area, Point, Volume, VolumeState
from dmsnap.errors import WrongStateError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import Linear, SnapshotMerge, SnapshotOrigin
from dmsnap.service import reaper
from dmsnap.service.exports import exported
from dmsnap.service.journal import Plan, Step
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.service.swaps.merging import merge
from dmsnap.service.volumes import assembly
from dmsnap.snapshot import live, stack, write_count
from dmsnap.tracking.choice import new_tracking_id
from dmsnap.units import to_bytes


class Rollback:
    """The plan that makes the primary what the trial over a live point shows."""

    def __init__(self, session: Session, volume: Volume, *, drop_points: bool) -> None:
        self.session = session
        self.volume = replace(volume, state=VolumeState.COMMITTING)
        self.before = replace(volume, generation=volume.generation - 1)
        self.backing = stack.backing(volume)
        self.shown = trial.live_point(volume)
        self.crowded = [] if volume.state is VolumeState.COMMITTING else self._crowded()
        if self.crowded and not drop_points:
            raise WrongStateError(
                f"{len(self.crowded)} live points of {volume.name} have no room for what going "
                f"back would overwrite",
                hint="delete them, or give --drop-points",
            )
        if volume.state is not VolumeState.COMMITTING:
            self._require_unexported()

    def _require_unexported(self) -> None:
        """A LUN of the point that is merged would show the volume itself from then on."""
        for point_id in (self.volume.trial_point, *(point.id for point in self.crowded)):
            if point_id is not None:
                exported.require_point_unexported(self.session, self.volume, point_id)

    def _crowded(self) -> list[Point]:
        """The other live points that would overflow."""
        # A chunk of the overlay can cost a whole chunk of each point.
        overlay_bytes = to_bytes(trial.overlay_usage(self.volume).used_sectors)
        overwritten = overlay_bytes * max(1, self.volume.chunk_bytes // trial.OVERLAY_CHUNK_BYTES)
        overwritten += to_bytes(dm.snapshot_status(self.shown.name).used_sectors)
        return [
            point
            for point in self.session.live_points(self.volume)
            if point.id != self.volume.trial_point and point.invalid_reason is None
            if free_bytes(self.volume, point) < overwritten
        ]

    def plan(self) -> Plan:
        name, device = self.volume.name, self.backing.path
        steps = [
            Step("mark-committing", f"record that {name} goes back for good", self._mark),
            *(
                Step(
                    f"drop-point-{point.id.hex[:12]}",
                    f"drop live point {point.id}, which would overflow",
                    partial(self._drop, point),
                )
                for point in self.crowded
            ),
            Step("merge-point", f"merge the live point into {device}", self._merge_point),
            Step("merge-overlay", f"merge the overlay into {device}", self._merge_overlay),
            Step("record", f"record {name} as protected", self._record),
            Step("retire", "take down what is left of the trial", self._retire),
        ]
        arguments = {"name": name, "drop_points": True}
        return Plan("swap commit", (self.volume.id,), steps, arguments, forward=True)

    def _mark(self) -> None:
        self.session.catalogue.update_volume(self.volume)

    def _drop(self, point: Point) -> None:
        self.session.drop_live_point(self.volume, point, "swap commit --drop-points")

    def _merge_point(self) -> None:
        """What comes in its place writes through the former origin, for the other points' sake."""
        assembly.build_origin(self.session, self.before)
        cow = stack.attach_area(
            self.volume, trial.point_area(self._areas(), self.volume.trial_point)
        )
        merge(
            self.session,
            self.volume,
            self.shown,
            SnapshotMerge(self.backing.devno, cow.devno, self.volume.chunk_bytes),
            Linear(stack.require(stack.origin(self.before)).devno, 0),
        )

    def _merge_overlay(self) -> None:
        cow = stack.attach_area(self.volume, trial.overlay_area(self.volume, self._areas()))
        below = stack.require(self.shown).devno
        merge(
            self.session,
            self.volume,
            stack.origin(self.volume),
            SnapshotMerge(below, cow.devno, trial.OVERLAY_CHUNK_BYTES),
            SnapshotOrigin(self.backing.devno),
        )

    def _areas(self) -> Sequence[Area]:
        return self.session.catalogue.areas(self.volume.id)

    def _record(self) -> None:
        """What was merged, era did not see: the next sync compares."""
        self.session.catalogue.update_volume(
            replace(
                self.volume,
                state=VolumeState.PROTECTED,
                trial_point=None,
                trial_live=False,
                tracking_id=new_tracking_id(),
            )
        )

    def _retire(self) -> None:
        volume = self.session.catalogue.volume_by_id(self.volume.id)
        reaper.retire_merged(self.session, volume)
        write_count.remember(self.session.configuration.run_directory, volume)


def free_bytes(volume: Volume, point: Point) -> int:
    """The room that is left in a live point's COW store."""
    usage = live.usage(volume, point)
    return to_bytes(usage.total_sectors - usage.used_sectors)
