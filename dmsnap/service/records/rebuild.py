"""Rebuild: a catalogue that was lost, from labels, live stacks, the store and what boots need.

What these cannot say is recorded again from the backup on the recovery volume, if there is one.

A volume is recorded when this host protects it: its stack lives, or a unit of ours waits for it at
boot. A recovery volume alone may have been left by ``unprotect``, or belong to another host.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from dmsnap._native.label import LabelState
from dmsnap.catalogue import database, export, recall
from dmsnap.catalogue.export import Export
from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.statements import Statements
from dmsnap.errors import DmsnapError, ForeignDeviceError, NotPermittedError
from dmsnap.recovery import lease
from dmsnap.recovery import search as searching
from dmsnap.recovery.search import Labelled, Search
from dmsnap.service.configuration import configuration
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.exports.export_source import DEVICES_LOCK
from dmsnap.service.health import boot
from dmsnap.service.records import backup, published, recollection, reconstruction
from dmsnap.service.records.evidence import Evidence
from dmsnap.service.records.published import Published
from dmsnap.service.records.reconstruction import Known
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission, recognition
from dmsnap.snapshot import survey


@dataclass(frozen=True, slots=True)
class RebuiltVolume:
    """A volume as it is recorded now, or would be; ``backup_ns`` is of the backup that was used."""

    volume: str
    state: VolumeState
    device: str
    recovery: str | None
    trial_point: UUID | None
    points: int
    pieces: int
    notes: tuple[str, ...]
    backup_ns: int | None = None


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """``set_aside`` is where a damaged catalogue is now; ``problems`` what was not recorded.

    ``exports`` are the targets that LIO has, and that were in no record.
    """

    set_aside: str | None
    recorded: bool
    volumes: tuple[RebuiltVolume, ...]
    exports: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is beside what is recorded: volumes, exports of devices, and all that LIO has."""

    found: list[Known]
    live: Published
    devices: list[Export]
    problems: list[str]


def rebuild(*, dry_run: bool) -> RebuildResult:
    """Record what the catalogue does not know; what it knows stays as it is. Needs root.

    Which volumes there are is looked up twice: their locks go by their names, and what is recorded
    is what is seen while no other command works on them.
    """
    if os.geteuid() != 0:
        raise NotPermittedError("dmsnap reads every device: it must be run as root")
    settings = configuration.load()
    where = database.at(settings.catalogue_place)
    damage = where.damage()
    if damage and dry_run:
        found, problems = look(settings, [])
        return result(None, found, [f"the catalogue {where.name} is damaged: {damage}", *problems])
    aside = where.set_aside() if damage else None
    with Session.open() as session:
        seen = see(session)
        if dry_run:
            exports = [*of_volumes(seen.found, seen.live), *seen.devices]
            return result(None, seen.found, seen.problems, exports=exports)
        names = sorted({each.volume.name for each in seen.found})
        with session.locked([*names, DEVICES_LOCK]):
            seen = see(session)
            kept = [each for each in seen.found if record_held(session, each, names, seen)]
            for each in seen.devices:
                export.record(session.catalogue, each)
    done = [*of_volumes(kept, seen.live), *seen.devices]
    return result(aside, kept, seen.problems, recorded=True, exports=done)


def see(session: Session) -> Seen:
    """Look at every device, at LIO and at what is recorded."""
    recorded = [volume.id for volume in session.catalogue.volumes()]
    found, problems = look(session.configuration, recorded)
    live = published.look(survey.live_stacks())
    return Seen(found, live, of_devices(session, live), [*problems, *live.problems])


def record_held(session: Session, known: Known, names: Sequence[str], seen: Seen) -> bool:
    """Record one volume if its lock is held; of one that came meanwhile it is not."""
    name = known.volume.name
    if name not in names:
        seen.problems.append(f"{name} has come up meanwhile: dmsnap catalogue rebuild records it")
        return False
    return record(session, known, seen.live, seen.problems)


def record(session: Session, known: Known, live: Published, problems: list[str]) -> bool:
    """Record one volume; a name that is taken meanwhile, or by another volume, is a problem."""
    if session.catalogue.find_volume(known.volume.name) is not None:
        problems.append(f"another volume named {known.volume.name} is recorded already")
        return False
    past, catalogue = known.recalled.excerpt, session.catalogue

    def also(statements: Statements) -> None:
        if past is not None:
            recall.everything(statements, past)
            catalogue.take_numbers(statements, "job")
        for each in exports_of(known, live):
            export.record_in(statements, each)

    catalogue.add_whole(known.volume, known.areas, known.points, also)
    session.note_replica(known.volume)
    recognition.note(session, known.volume)
    return True


def exports_of(known: Known, live: Published) -> list[Export]:
    """What LIO publishes of a volume, but for points that nobody knows."""
    points = [point.id for point in known.points]
    found = live.of(known.volume.id, points)
    return [each for each in found if each.source.point_id in {None, *points}]


def of_volumes(found: Sequence[Known], live: Published) -> list[Export]:
    return [each for known in found for each in exports_of(known, live)]


def of_devices(session: Session, live: Published) -> list[Export]:
    """What is published of devices of no volume, and not recorded."""
    recorded = {each.id for each in export.exports(session.catalogue)}
    return [each for each in live.of(None) if each.id not in recorded]


def result(
    aside: Path | None,
    found: Sequence[Known],
    problems: Sequence[str],
    *,
    recorded: bool = False,
    exports: Sequence[Export] = (),
) -> RebuildResult:
    return RebuildResult(
        set_aside=str(aside) if aside else None,
        recorded=recorded,
        volumes=tuple(described(each) for each in found),
        exports=tuple(each.target for each in exports),
        problems=tuple(problems),
    )


def described(known: Known) -> RebuiltVolume:
    volume = known.volume
    return RebuiltVolume(
        volume=volume.name,
        state=volume.state,
        device=volume.backing,
        recovery=volume.recovery,
        trial_point=volume.trial_point,
        points=len(known.points),
        pieces=len(known.areas),
        notes=known.notes,
        backup_ns=known.recalled.written_ns,
    )


def look(settings: Configuration, recorded: Sequence[UUID]) -> tuple[list[Known], list[str]]:
    """What can be recorded beside ``recorded``, and a sentence for everything that cannot."""
    search = searching.search(settings.primary_wait_seconds)
    problems = list(search.damaged)
    found: list[Known] = []
    for evidence in gathered(search, problems):
        if evidence.volume_id in recorded:
            continue
        try:
            admission.check_name(evidence.name)
            require_protected_here(evidence)
            found.append(reconstruction.known(with_past(evidence), settings.run_directory))
        except DmsnapError as error:
            problems.append(str(error))
    return found, problems


def gathered(search: Search, problems: list[str]) -> Iterator[Evidence]:
    """What belongs to one volume, by its UUID: a stack, a recovery volume, or both."""
    labels: dict[UUID, list[Labelled]] = {}
    for labelled in search.found:
        labels.setdefault(labelled.label.volume_uuid, []).append(labelled)
    for stack in survey.live_stacks():
        fitting = [one for one in labels.pop(stack.volume_id, []) if fits(stack, one)]
        mine = searching.telling(fitting)
        if len(mine) > 1:
            problems.append(several(mine))
        else:
            yield Evidence(stack, mine[0] if mine else None)
    for mine in map(searching.telling, labels.values()):
        if len(mine) > 1:
            problems.append(several(mine))
        else:
            yield Evidence(None, mine[0])


def with_past(evidence: Evidence) -> Evidence:
    """With what the recovery volume says of the past; where that became the volume, of before."""
    found = evidence.found
    if found is None:
        return evidence
    recalled = backup.read(found.device, found.label)
    is_primary = found.label.state is LabelState.PRIMARY
    return replace(evidence, recalled=recollection.of_before(recalled) if is_primary else recalled)


def fits(stack: survey.LiveStack, labelled: Labelled) -> bool:
    label = labelled.label
    return label.name == stack.name and label.size_bytes == stack.size_bytes


def several(found: Sequence[Labelled]) -> str:
    """Which of them is the recovery volume only the administrator can say."""
    paths = " and ".join(str(each.device.path) for each in found)
    return (
        f"{paths} each carry the label of the recovery volume of {found[0].label.name}: it is "
        f"not recorded; wipe the label of the copy, or take it away"
    )


def require_protected_here(evidence: Evidence) -> None:
    """Raise :class:`ForeignDeviceError` unless the volume is this host's to record."""
    found = evidence.found
    if found is None or evidence.live is not None:
        return
    lease.require_trusted(found.device.path, found.label)
    lease.require_ours(found.device.path, found.label)
    if not boot.is_awaited(evidence.name):
        raise ForeignDeviceError(
            f"{found.device.path} is the recovery volume of {evidence.name}, which is not "
            f"protected on this host: neither its stack nor its unit is there",
            hint=f"dmsnap swap --from-label {found.device.path} recovers the volume from it",
        )
