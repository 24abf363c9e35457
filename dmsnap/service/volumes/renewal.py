"""New marks: dm-era begins anew with clean metadata, where what it has is worth nothing.

It came to that by an I/O error of the disk that its metadata lie on (snapshot.bypass). The origin
was there all the time, so live points stay what they are; only the tracking is lost.
"""

from dataclasses import replace

from dmsnap.catalogue.model import SETTLED, Volume
from dmsnap.errors import StackChangedError
from dmsnap.host import blockdev
from dmsnap.service.journal import Step
from dmsnap.service.session import Session
from dmsnap.service.swaps import trial
from dmsnap.snapshot import bypass, failed_writes, stack, window_count
from dmsnap.snapshot.exchange import exchange
from dmsnap.snapshot.window_count import WriteCounts
from dmsnap.tracking.choice import new_tracking_id
from dmsnap.units import PAGE_BYTES, format_size


class LostMarksError(StackChangedError):
    """dm-era's marks do not tell everything that was written."""


def reason(session: Session, volume: Volume) -> str | None:
    """Why dm-era's marks of a volume are worth nothing; None as far as is known: they are."""
    if volume.state not in SETTLED:
        return None
    if bypass.leads_past(volume):
        return bypass.sentence(volume)
    return _failed(session, volume)


def _failed(session: Session, volume: Volume, counts: WriteCounts | None = None) -> str | None:
    """What passed a foreign table of the front by did not fail, and is in no live point: that is
    for assemble.
    """
    if not bypass.has_era(volume):
        return None
    count = failed_writes.bytes_failed(session.configuration.run_directory, volume, counts)
    if not count:
        return None
    return (
        f"dm-era could not mark, and so failed, {format_size(count)} of writes to "
        f"/dev/mapper/{stack.front(volume).name}: its metadata cannot be relied on"
    )


def require_marks(session: Session, volume: Volume, counts: WriteCounts | None = None) -> None:
    """Raise :class:`LostMarksError` when what was just read of dm-era may lack marks.

    By what is counted now, and by ``counts`` of a window, which under writes are more exact.
    """
    sentence = _failed(session, volume)
    if sentence is None and counts is not None:
        sentence = _failed(session, volume, counts)
    if sentence is not None:
        raise lost(volume, sentence)


def lost(volume: Volume, sentence: str) -> LostMarksError:
    """The error for marks that are worth nothing, with what to do."""
    hint = f"dmsnap assemble {volume.name} gives dm-era new metadata"
    return LostMarksError(sentence, hint=hint, volume=volume.name)


class Renewal:
    """The steps that give a front's dm-era clean metadata, under its users."""

    def __init__(self, session: Session, volume: Volume) -> None:
        self.session = session
        self.volume = replace(volume, tracking_id=new_tracking_id())

    def steps(self) -> list[Step]:
        name = self.volume.name
        return [
            Step("distrust", f"distrust the tracking of {name} so far", self._distrust),
            Step("pass-by", f"lead /dev/mapper/{name} past dm-era", self._pass_by),
            Step("renew", f"let dm-era begin anew with the metadata of {name}", self._renew),
        ]

    @property
    def _deadline_ms(self) -> int:
        return self.session.configuration.window_deadline_ms

    def _distrust(self) -> None:
        self.session.catalogue.update_volume(self.volume)

    def _pass_by(self) -> None:
        if not bypass.leads_past(self.volume):
            bypass.pass_by(self.volume, self._deadline_ms)

    def _renew(self) -> None:
        """Nobody has the metadata open now: held ``O_EXCL`` they are cleared, and formatted.

        Where that fails the front goes on as it is, past dm-era.
        """
        areas = self.session.catalogue.areas(self.volume.id)
        area = stack.era_area(self.volume, areas)
        metadata = stack.attach_area(self.volume, area)
        stack.remove(stack.era_maker(self.volume))  # of one that was killed here
        blockdev.clear_start(metadata.path, PAGE_BYTES)
        trial.make_metadata(self.volume, area)  # before the front waits for it
        front = stack.require(stack.front(self.volume))
        table = stack.front_table(self.volume, metadata)
        devices = failed_writes.devices(self.volume)
        counted = exchange(front, table, self._deadline_ms, counted=devices)
        stack.turn_discards_off(self.volume)
        counts = window_count.of_front(*counted)
        failed_writes.remember(self.session.configuration.run_directory, self.volume, counts)
        stack.check(self.volume, areas, self.session.catalogue.points(self.volume.id))
