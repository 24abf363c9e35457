"""Labels, read so that nobody waits for a disk that hangs: as the service looks at all volumes."""

from dataclasses import dataclass, field

from dmsnap._native.label import Label
from dmsnap.catalogue.model import Volume
from dmsnap.errors import DeadlineError, DmsnapError
from dmsnap.host import reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.sysfs import SYSFS
from dmsnap.recovery import replica

ANSWER_SECONDS = 10.0


@dataclass(slots=True)
class LabelReader:
    """``unanswered`` has the recovery volumes that did not answer, each with the number of requests
    that it had completed by then.
    """

    unanswered: dict[str, int] = field(default_factory=dict)

    def read(self, volume: Volume) -> Label | DmsnapError | None:
        """The label, why it cannot be read, or None where there is no recovery volume.

        A program reads the device first, which is left behind where that hangs, and is not joined
        by others while that goes on.
        """
        if volume.recovery is None:
            return None
        try:
            device = BlockDevice.probe(replica.recovery_path(volume))
            if self._answers(device):
                return replica.label_of(volume)
        except DmsnapError as error:
            return error
        return DeadlineError(
            f"the recovery volume {volume.recovery} does not answer: its disk seems to hang",
            device=volume.recovery,
        )

    def _answers(self, device: BlockDevice) -> bool:
        name, devno = str(device.path), device.devno
        completed = SYSFS.requests_completed(devno)
        waits = SYSFS.in_flight(devno) or SYSFS.dm_suspended(devno)
        if waits and self.unanswered.get(name) == completed:
            return False
        if reach.reads(device.path, ANSWER_SECONDS):
            self.unanswered.pop(name, None)
            return True
        self.unanswered[name] = SYSFS.requests_completed(devno)
        return False
