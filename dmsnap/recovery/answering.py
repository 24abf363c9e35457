"""Whether recovery volumes answer: asked by who reads a label by the way, and can do without it.

Who reads a disk that hangs cannot be ended, and keeps what he holds. Forks: not for the service.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue.model import Volume
from dmsnap.errors import DeadlineError, DmsnapError
from dmsnap.host import reach
from dmsnap.host.blockdev import BlockDevice
from dmsnap.recovery import replica


def silent(volumes: Sequence[Volume]) -> set[UUID]:
    """The volumes whose recovery volume does not answer, all asked at once. What is away does, and
    so does what was just written to.
    """
    paths: dict[UUID, Path] = {}
    for volume in volumes:
        with suppress(DmsnapError):
            if volume.recovery is not None:
                device = BlockDevice.probe(replica.recovery_path(volume))
                if not reach.was_heard(device.devno):
                    paths[volume.id] = device.path
    found = set(reach.silent([*dict.fromkeys(paths.values())], reach.ANSWER_SECONDS))
    return {each for each, path in paths.items() if path in found}


def require(volume: Volume) -> None:
    """Raise :class:`DeadlineError` when the recovery volume hangs."""
    if silent([volume]):
        raise DeadlineError(
            f"the recovery volume {volume.recovery} {reach.HANGS}", device=volume.recovery
        )
