"""What a volume's policy says of the points in its history, when that has no room for all."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from dmsnap._native.label import Label
from dmsnap.catalogue.model import Point, Volume
from dmsnap.errors import ConfigurationError
from dmsnap.host import local_time
from dmsnap.recovery.room import Claims
from dmsnap.service.configuration import configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes import membership

if TYPE_CHECKING:
    from dmsnap.policy.retention import Retention

# What a remark begins with, by which the record of a sync is known again.
TOO_SMALL = "the history has too little room for what is kept by the policy "


@dataclass(frozen=True, slots=True)
class Claiming:
    """``policy`` is whose rules these are; None: no rule says anything of the history."""

    policy: str | None = None
    claims: Claims = field(default_factory=dict)

    @classmethod
    def of(cls, session: Session, volume: Volume, label: Label, arriving: Point) -> Self:
        """With the replica at ``arriving``, as it will be when the next one is judged.

        ``ConfigurationError`` when the configuration has any mistake: what the policy keeps cannot
        be known then, and nothing of that comes back.
        """
        found = _retention_of(session, volume)
        if found is None:
            return cls()
        policy, retention = found
        # Imported where there are policies, as what declares them.
        from dmsnap.policy import claims
        from dmsnap.service.points import clock_record, pruning

        records = {point.id: point for point in session.catalogue.marked_points(volume.id)}
        aging = [*pruning.aging_in(label, records), pruning.aging(arriving)]
        now_ns = clock_record.trusted_now(session.configuration.state_directory, recording=False)
        return cls(policy, claims.of_history(aging, retention, now_ns, local_time.zone()))

    def remark(self, given_up: int) -> str:
        """What is to be said when so many points went that the policy keeps; nothing if none."""
        if self.policy is None or not given_up:
            return ""
        points = f"{given_up} points" if given_up > 1 else "one point"
        return f"{TOO_SMALL}{self.policy}: {points} went that it keeps"

    def reason(self, point: Point) -> str:
        """Why a point went, for the record of it."""
        if self.policy is None:
            return "the history had no room for it"
        if self.claims.get(point.id, 0):
            return f"the history had no room for it, though the policy {self.policy} keeps it"
        return "no rule keeps it, and the history had no room for it"


def _retention_of(session: Session, volume: Volume) -> "tuple[str, Retention] | None":
    """The policy that decides about the history of ``volume``, where it says how long."""
    try:
        if not configuration.declares(session.configuration.iscsi_secrets, "policy"):
            return None
        declared = membership.declared_now(session)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the history of {volume.name} has no room for another point, and which ones its "
            f"policy keeps cannot be known: {error}",
            hint=error.hint,
            **error.fields,
        ) from error
    # Imported where there are policies: pydantic takes a third of a command's start.
    from dmsnap.service.configuration import coherence

    name = coherence.policies_of(declared, volume.name).get("history")
    table = declared.policy[name].history if name is not None else None
    return (name, table.retention) if name is not None and table is not None else None
