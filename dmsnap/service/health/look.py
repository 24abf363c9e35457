"""What is held against each other of a volume: what is recorded, its label, its devices.

What is recorded is read first, at once for all volumes: what changes while they are looked at, one
after the other, is found by reading it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from dmsnap._native.label import Label
from dmsnap.catalogue import present
from dmsnap.catalogue.model import Volume
from dmsnap.catalogue.present import Present, Replica, ReplicaRecord
from dmsnap.errors import DeadlineError, DmsnapError
from dmsnap.recovery import replica
from dmsnap.service.health import silence
from dmsnap.service.health.silence import NOWHERE, Ask, Part, Silence
from dmsnap.service.session import Session


@dataclass(frozen=True, slots=True)
class Look:
    """``running`` is the command that works on the volume. ``label`` is an error where it cannot be
    read, None where there is no recovery volume; ``replica`` is what is recorded of what it names.
    Of what is in ``silent`` nothing is read.
    """

    volume: Volume
    running: str | None
    recorded: Present
    label: Label | DmsnapError | None
    replica: ReplicaRecord
    silent: Silence = NOWHERE


def look_up(session: Session, volumes: Sequence[Volume], ask: Ask | None = None) -> list[Look]:
    """Read what is recorded of volumes, and their labels.

    Whose devices do not answer is found out before, by ``ask`` where that is given.
    """
    running = [session.running(volume.name) for volume in volumes]
    recorded = present.of_volumes(session.catalogue, [volume.id for volume in volumes])
    silent = silence.of_volumes(volumes, recorded, ask)
    labels = {volume.id: _label(volume, silent[volume.id]) for volume in volumes}
    named = [
        Replica(volume_id, label.recovery_uuid, label.point_uuid)
        for volume_id, label in labels.items()
        if isinstance(label, Label)
    ]
    replicas = present.of_replicas(session.catalogue, named)
    return [
        Look(
            volume,
            command,
            recorded[volume.id],
            labels[volume.id],
            replicas.get(volume.id, ReplicaRecord()),
            silent[volume.id],
        )
        for volume, command in zip(volumes, running, strict=True)
    ]


def _label(volume: Volume, silent: Silence) -> Label | DmsnapError | None:
    if Part.RECOVERY in silent:
        return DeadlineError(silent.sentences[Part.RECOVERY], device=volume.recovery)
    return label_or_error(volume)


def label_or_error(volume: Volume) -> Label | DmsnapError | None:
    """The label, why it cannot be read, or None where there is no recovery volume."""
    if volume.recovery is None:
        return None
    try:
        return replica.label_of(volume)
    except DmsnapError as error:
        return error


def changed_since(session: Session, looks: Sequence[Look]) -> dict[UUID, Volume]:
    """The volumes of which something was recorded since they were looked up, as they are now."""
    if not looks:
        return {}
    volumes = {volume.id: volume for volume in session.catalogue.volumes()}
    now = present.of_volumes(session.catalogue, [each.volume.id for each in looks])
    return {
        each.volume.id: volumes[each.volume.id]
        for each in looks
        if each.volume.id in volumes
        and (volumes[each.volume.id], now[each.volume.id]) != (each.volume, each.recorded)
    }
