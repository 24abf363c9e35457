"""Which unprotected volumes runs will protect by themselves, under what name, and which first."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dmsnap.catalogue.clock import format_time
from dmsnap.host.dm import device as dm
from dmsnap.service.configuration.coherence import default_of, protects_new
from dmsnap.service.configuration.declaration import Declarations
from dmsnap.service.session import Session
from dmsnap.service.volumes.newcomer_name import name_for
from dmsnap.service.volumes.newcomer_obstacle import Judge, Obstacle

if TYPE_CHECKING:
    from dmsnap.service.volumes.discovery import Discovered


def judged(
    session: Session, declared: Declarations, found: Sequence["Discovered"]
) -> list["Discovered"]:
    """``found`` with what runs will do of each that is not protected; no change without a policy
    that has them protect. Reads devices, and changes nothing.
    """
    if not protects_new(declared):
        return list(found)
    judge = Judge(session, declared, found)
    after = {id(each): each for each in found}
    for each in found:
        if each.joins:
            after[id(each)] = replace(each, obstacle=judge.obstacle(each))
    taken = Taken(session, declared)
    for each in sorted(found, key=turn_of):
        now = after[id(each)]
        if each.joins and now.obstacle is None:
            after[id(each)] = taken.named(now)
    return [after[id(each)] for each in found]


def turn_of(volume: "Discovered") -> tuple[int, int, str]:
    """The order in which runs try: one that cannot be protected keeps no other from it."""
    return volume.tried_ns or 0, volume.first_seen_ns, volume.identity


def next_one(found: Sequence["Discovered"]) -> "Discovered | None":
    """What the next run will protect, if nothing changes until then."""
    return min((each for each in found if each.joins_as), key=turn_of, default=None)


def ready(found: Sequence["Discovered"]) -> "Discovered | None":
    """What a run is to protect now: it was seen before, and has not changed since."""
    return next_one([each for each in found if each.settled])


def sentence(volume: "Discovered", declared: Declarations) -> str | None:
    """What somebody has to see to, of a volume that is not protected; None: nothing."""
    subclient = default_of(declared)
    policy = declared.policy[declared.subclient[subclient or ""].policy or ""]
    leave_out = f"leave it out of the sub-client {subclient}"
    by_hand = f"dmsnap protect {volume.device} --name NAME --pool {policy.pool}"
    if volume.obstacle is not None:
        way_out = f"{by_hand}, or {leave_out}" if volume.obstacle.by_hand else leave_out
        return f"{volume.placed} is not protected by runs, as {volume.obstacle.reason}: {way_out}"
    if volume.joins_as is not None and volume.tried_ns is not None:
        tried = format_time(volume.tried_ns)
        return (
            f"{volume.placed} is not protected yet, though a run tried that at {tried}: see what "
            f"it said, or {leave_out}"
        )
    return None


@dataclass(slots=True)
class Taken:
    """Names that a volume cannot have: also those that are meant for others."""

    session: Session
    declared: Declarations
    names: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {each.name for each in self.session.catalogue.volumes()}
        self.names |= {name for each in self.declared.subclient.values() for name in each.volumes}

    def __contains__(self, name: object) -> bool:
        return name in self.names or (isinstance(name, str) and dm.info(name) is not None)

    def named(self, volume: "Discovered") -> "Discovered":
        name = name_for(volume, self)
        if name is None:
            return replace(volume, obstacle=Obstacle("no name is left for it"))
        self.names.add(name)
        return replace(volume, joins_as=name)
