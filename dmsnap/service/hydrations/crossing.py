"""The note that a volume goes on over another device: durable before it can do so.

The catalogue may be on a server that does not answer while the volume is held, or that loses its
connection after it was told to commit. So the record does not decide: with the note, and the new
device's table loaded, the volume only ever goes forward, whoever resumes it and whatever has become
of the record. That is put right afterwards, before anything is built by it.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from dmsnap.catalogue import identity
from dmsnap.catalogue.model import Volume
from dmsnap.errors import OperatingSystemError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm.target import format_table
from dmsnap.host.replacement import remove_file
from dmsnap.service import note
from dmsnap.service.session import Session
from dmsnap.snapshot import stack, write_count

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Crossing:
    """From which device to which, and what is recorded of the volume then.

    ``table`` is what its origin has then, in the words of dmsetup(8); good until the next boot.
    ``led_to`` is which device the new one is; a note of an earlier version does not have it.
    """

    source: str
    target: str
    device_bytes: int | None
    tracking_id: str
    table: str
    led_to: str = ""

    def applied(self, volume: Volume) -> Volume:
        """The volume as it is on the new device."""
        if volume.backing != self.source:
            return volume
        left_behind = [path for path in volume.left_behind if path != self.target]
        after = replace(
            volume,
            backing=self.target,
            device_bytes=self.device_bytes,
            hydration=None,
            left_behind=(*left_behind, self.source),
            tracking_id=self.tracking_id,
        )
        # What was at that path once, and is recorded, is not what is there now.
        forgetting = tuple(each for each in after.led_to if each[0] != self.target)
        return identity.leading(replace(after, led_to=forgetting), self.target, self.led_to)


def begin(directory: Path, volume_id: UUID, crossing: Crossing) -> None:
    """Note it, in the state directory: from here on a boot goes on over the new device."""
    note.write(_path(directory, volume_id), crossing)


def noted(directory: Path, volume_id: UUID) -> Crossing | None:
    """What is noted; None: nothing is on its way. ``CorruptError`` when it cannot be read."""
    return note.read(
        _path(directory, volume_id),
        Crossing,
        says="on which of two devices a volume is",
        hint="dmsetup table says it of the origin while the volume serves, and the content of both "
        "devices after a boot; then remove the file",
    )


def end(directory: Path, volume_id: UUID) -> None:
    """It is recorded, or did not come to it."""
    remove_file(_path(directory, volume_id))


def _path(directory: Path, volume_id: UUID) -> Path:
    return directory / "crossings" / f"{volume_id}.json"


def expected(session: Session, volume: Volume) -> Volume:
    """The volume as it will be found after :func:`settle`."""
    crossing = noted(session.configuration.state_directory, volume.id)
    return volume if crossing is None else crossing.applied(volume)


def settle(session: Session, volume: Volume) -> Volume:
    """Record where a volume is that a command left on its way. Called with its lock held.

    In the boot in which that was, the origin's own table says it; after another, the note.
    """
    directory = session.configuration.state_directory
    crossing = noted(directory, volume.id)
    if crossing is None:
        return volume
    is_there = stack.exists(stack.origin(volume))
    if is_there and not goes_forward(directory, volume, crossing):
        return volume
    after = crossing.applied(volume)
    session.catalogue.update_volume(after)
    if is_there:
        count_anew(session.configuration.run_directory, after)
    log.warning("%s goes on over %s, which is recorded now", volume.name, crossing.target)
    end(directory, volume.id)
    return after


def goes_forward(directory: Path, volume: Volume, crossing: Crossing) -> bool:
    """Have the origin go on, where it is held; whether it does so over the new device.

    It does if that device's table was loaded while it was held. If not, the note goes before
    anything is written.

    Whoever begins this is dead by now, or here, and its watchdog resumes only what is held. So:

    - The table was loaded before anybody resumed: it is loaded and the origin held, or it is live,
      and nothing was written to the old device. A resume that comes between this look and ours
      makes the same table live.
    - It was loaded after the watchdog had resumed: it is loaded and the origin not held, and
      nothing makes it live any more. What was held, and more, is on the old device.
    - It was not loaded: nobody does so any more.

    A resume that is under way while the table is loaded looks like the first and is the second:
    who is here has waited for its watchdog then (``Watchdog.join``), and after who is dead a
    process had to end in that moment, and another to begin.
    """
    name = stack.origin(volume).name
    state = dm.existing(name)
    loaded = dm.table(name, inactive=True) if state.inactive_table else None
    live = dm.table(name) if state.live_table else None
    gone_on = [live, loaded] if state.suspended else [live]
    forward = crossing.table in [format_table(table) for table in gone_on if table]
    try:
        if not forward:
            end(directory, volume.id)
    finally:
        if loaded and not forward:
            dm.clear(name)
        if state.suspended:
            resume(name)
    return forward


def resume(name: str) -> None:
    """Resume an origin beside its watchdog: of two at once the kernel refuses one (EINVAL)."""
    try:
        dm.resume(name)
    except OperatingSystemError:
        if dm.existing(name).suspended:
            raise


def count_anew(directory: Path, volume: Volume) -> None:
    """Count what is written to the new device past the front, unless that is done already."""
    if write_count.bytes_beside(directory, volume) is None:
        write_count.remember(directory, volume)
