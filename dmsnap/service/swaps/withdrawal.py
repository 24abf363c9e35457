"""The end of a trial that has no volume to go back to: its recovery volume stays as it is.

And of one that can be neither kept nor reverted, as what it lies on is gone for good.
"""

import logging
from functools import partial

from dmsnap.catalogue.model import Volume, VolumeState
from dmsnap.errors import DmsnapError
from dmsnap.recovery import chain, replica
from dmsnap.service.health import boot
from dmsnap.service.journal import Plan, Step
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.service.volumes import assembly
from dmsnap.snapshot import stack

log = logging.getLogger(__name__)


def is_cut_off(volume: Volume) -> bool:
    """Whether it was being recovered by a label alone when that was cut off."""
    return volume.state is VolumeState.BUILDING and volume.trial_point is not None


def ends_without_volume(volume: Volume) -> bool:
    """Whether there is no volume to go back to."""
    return is_cut_off(volume) or (volume.state is VolumeState.TRIAL and not volume.backing)


def release_recovery(volume: Volume) -> None:
    """The recovery volume may be what was lost, or have another host by now: never mind."""
    try:
        replica.release(volume)
    except DmsnapError as error:
        log.warning("the recovery volume of %s is not released: %s", volume.name, error)


class Withdrawal:
    """The plan that takes down what was recovered by a label alone, and forgets it.

    The recovery volume is anybody's only when no boot would put it under the front again. Of a
    trial that is given up (``give_up``) the volume's own device, which is not mounted, stays as it
    is, too.
    """

    def __init__(self, session: Session, volume: Volume, *, give_up: bool = False) -> None:
        self.session = session
        self.volume = volume
        self.give_up = give_up
        self.areas = session.catalogue.areas(volume.id)

    def plan(self) -> Plan:
        name, volume = self.volume.name, self.volume
        steps = [
            Step(
                "unmount",
                f"unmount /dev/mapper/{name}",
                partial(
                    assembly.unmount_front,
                    volume,
                    self.session.configuration.unmount_wait_seconds,
                ),
                self._mount,
            ),
            Step("remove-front", f"remove /dev/mapper/{name}", self._remove_front, final=True),
            Step(
                "hide-point",
                f"remove what showed point {volume.trial_point}",
                self._hide,
                final=True,
            ),
            Step(
                "withdraw-boot",
                f"have {name} not assembled at boot",
                self._withdraw,
                final=True,
            ),
            Step(
                "release-recovery",
                f"let any host take {volume.recovery}",
                partial(release_recovery, volume),
                final=True,
            ),
            Step(
                "release-store",
                f"give back what {name} used of {volume.store}",
                self._release,
                final=True,
            ),
            Step(
                "record",
                f"record that {name} is not in trial any more",
                partial(self.session.catalogue.remove_volume, volume.id),
                final=True,
            ),
        ]
        arguments = {"name": name, "forget": False, "give_up": self.give_up}
        return Plan("unprotect", (volume.id,), steps, arguments)

    def _mount(self) -> None:
        if stack.exists(stack.front(self.volume)):
            assembly.mount_front(self.volume)

    def _remove_front(self) -> None:
        stack.remove(stack.front(self.volume))

    def _hide(self) -> None:
        trial.hide(self.volume, chain.existing(self.volume, chain.TRIAL))
        if not self.give_up:
            return
        for point in self.session.live_points(self.volume):
            self.session.drop_live_point(self.volume, point, "unprotect --give-up")
        stack.remove(stack.origin(self.volume, self.volume.generation - 1))
        stack.remove(stack.base(self.volume))

    def _withdraw(self) -> None:
        boot.show(self.volume, forget=False)
        boot.withdraw(self.volume)

    def _release(self) -> None:
        for area in self.areas:
            self.session.release_area(self.volume, area)
