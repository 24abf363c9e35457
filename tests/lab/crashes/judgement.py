"""What became of an operation that was cut off: how things are, held against how they should be."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

Facts = Mapping[str, object]

# What of the facts tells of the recovery volume's label, and of all that it leads to.
LABELLED = ("label", "contents")


class Outcome(StrEnum):
    """What became of an operation that was cut off."""

    UNDONE = "undone"
    DONE = "done"
    AS_BEFORE = "as before"  # there is no telling: the operation changes nothing that lasts
    LABEL_MENDED = "undone, label mended"


@dataclass(frozen=True, slots=True)
class Step:
    """A step as the journal recorded it when nothing happened to it."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """How things are: facts that are the same each time, and every byte of points, by their ids.

    A point that is taken anew in each boot has other bytes each time: those of its files are facts.
    """

    facts: Facts
    points: Mapping[str, str]

    def summary(self) -> str:
        """How much of points there is to compare."""
        shown = [each.get("note") or each["refused"] for each in self.facts["contents"]]  # type: ignore[attr-defined]
        return f"points: {', '.join(shown) or 'none'}; label: {self.facts['label']}"

    def require_points(self, other: "Seen") -> None:
        """Raise where a point shows something else, whatever became of the operation."""
        for point, digest in self.points.items():
            assert other.points.get(point, digest) == digest, f"point {point} shows something else"


@dataclass(frozen=True, slots=True)
class Reference:
    """How things are without a crash: before the operation and after it, each after a boot.

    ``former``: how they were before something happened to the label that the operation mends and
    does not spoil again (the disk was made larger, another host claimed it); None where nothing
    did.
    """

    steps: tuple[Step, ...]
    before: Seen
    after: Seen
    published: Mapping[Outcome, Facts]
    former: Seen | None = None

    def require_points(self, seen: Seen) -> None:
        """Raise where a point shows something else than ever."""
        for known in (self.before, self.after, self.former):
            if known is not None:
                seen.require_points(known)

    @property
    def mended(self) -> Facts | None:
        """All as before the operation, but the label and what it leads to as they once were."""
        if self.former is None:
            return None
        return {**self.before.facts, **{name: self.former.facts[name] for name in LABELLED}}


def judged(reference: Reference, seen: Seen) -> Outcome:
    """Whether things are as before the operation or as after it.

    Where the label was spoiled before, it may be mended and all else be as before: then every
    point is there again, the replica's own among them, and shows what it once did.
    """
    reference.require_points(seen)
    before, after = reference.before.facts, reference.after.facts
    if before == after == seen.facts:
        return Outcome.AS_BEFORE
    if seen.facts == before:
        return Outcome.UNDONE
    if seen.facts == after:
        return Outcome.DONE
    if reference.former is not None and seen.facts == reference.mended:
        assert seen.points == reference.former.points, "not every point is there again"
        return Outcome.LABEL_MENDED
    raise AssertionError(
        "neither as before the operation nor as after it:\n"
        + textwrap.indent("\n".join(differences(reference, seen.facts)), "  ")
    )


def differences(reference: Reference, facts: Facts) -> Iterator[str]:
    """What is another than before, or than after: whichever is nearest."""
    known = {"before": reference.before.facts, "after": reference.after.facts}
    if reference.mended is not None:
        known["before, with the label mended"] = reference.mended
    found = {
        when: [(name, value, other[name]) for name, value in facts.items() if value != other[name]]
        for when, other in known.items()
    }
    nearest = min(found, key=lambda when: len(found[when]))
    yield f"next to {nearest}"
    for name, value, other in found[nearest]:
        yield f"{name}: {value} instead of {other}"
