"""What declared tables say of each other: references, circles, and policies that contradict.

Nothing here reads anything: what is found is told by keys, and whoever read the files knows where.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from dmsnap.service.configuration import mistake
from dmsnap.service.configuration.declaration import (
    Declarations,
    DeclaredIoClass,
    Make,
    NewVolumes,
    Policy,
    Subclient,
)
from dmsnap.service.configuration.mistake import Flaw
from dmsnap.service.replicas.audit import Audit

Names = Mapping[str, Collection[str]]

# What stands for a volume that is yet to be discovered; no name has a space in it.
_ANY_NEW = "new volumes"


def flaws(declared: Declarations) -> Iterator[Flaw]:
    """What tables that are right by themselves say against each other, or against sense."""
    yield from _single(declared)
    yield from _circles(declared.subclient)
    protects = protects_new(declared)
    yield from _conflicts(with_joined(declared, [_ANY_NEW]) if protects else declared)


def dangling(declared: Declarations, names: Names) -> Iterator[Flaw]:
    """References to what is not declared; ``names`` are all that are, rightly or not."""
    for noun, key, word in _referring(declared):
        if word not in names[noun]:
            sentence = f"there is no {noun} {word!r}"
            yield mistake.of_word(key, sentence, word, sorted(names[noun]))


def _single(declared: Declarations) -> Iterator[Flaw]:
    """What keys of one table say against each other."""
    for name, store in declared.store.items():
        if (store.directory is None) is (store.volume_group is None):
            yield Flaw(("store", name), "must have either directory or volume_group")
    yield from _defaults(declared.subclient)
    for name, subclient in declared.subclient.items():
        if not subclient.volumes and not subclient.include and not subclient.is_default(name):
            yield Flaw(("subclient", name), "must have volumes or include other sub-clients")
        if subclient.left_out and not subclient.is_default(name):
            yield Flaw(("subclient", name, "left_out"), "is for the default sub-client")
    for name, policy in declared.policy.items():
        yield from (Flaw(("policy", name, key), sentence) for key, sentence in _idle(policy))


def _defaults(subclients: Mapping[str, Subclient]) -> Iterator[Flaw]:
    """A volume that is discovered joins one sub-client, and no two."""
    first, *others = [name for name, each in subclients.items() if each.is_default(name)] or [""]
    for name in others:
        key = ("subclient", name, *(["default"] if subclients[name].default else []))
        yield Flaw(key, f"is a second default sub-client beside {first}")


def default_of(declared: Declarations) -> str | None:
    """The sub-client that discovered volumes join."""
    found = (name for name, each in declared.subclient.items() if each.is_default(name))
    return next(found, None)


def protects_new(declared: Declarations) -> bool:
    """Whether runs of the default sub-client's policy protect what is discovered."""
    name = default_of(declared)
    policy = declared.policy.get(declared.subclient[name].policy or "") if name else None
    return policy is not None and policy.new_volumes is NewVolumes.PROTECT


def with_joined(declared: Declarations, joined: Collection[str]) -> Declarations:
    """What is declared, with the volumes that joined the default sub-client among its own.

    But for those that any sub-client names by now: then that is what counts.
    """
    name = default_of(declared)
    named = {volume for each in declared.subclient.values() for volume in each.volumes}
    others = sorted(set(joined) - named)
    if name is None or not others:
        return declared
    default = declared.subclient[name]
    default = replace(default, volumes=(*default.volumes, *others))
    return replace(declared, subclient={**declared.subclient, name: default})


def _idle(policy: Policy) -> Iterator[tuple[str, str]]:
    """Keys that mean nothing to what the policy makes, or miss what they mean."""
    made = f'means nothing where make = "{policy.make}"'
    if policy.make is Make.RECOVERY_VOLUME and policy.primary is not None:
        yield "primary", made
    if policy.new_volumes is NewVolumes.PROTECT:
        if policy.make is Make.SNAPSHOT:
            yield "new_volumes", f"{made}: what is protected has a recovery volume"
        elif policy.pool is None:
            yield "new_volumes", "needs the key pool, out of which recovery volumes are taken"
    if policy.make is Make.SNAPSHOT:
        keys = ("pool", "history", "copy", "audit_size", "bandwidth", "io_class")
        yield from ((key, made) for key in keys if getattr(policy, key) is not None)
    if policy.audit_size is not None and policy.audit is not Audit.SAMPLE:
        yield "audit_size", f'means nothing without audit = "{Audit.SAMPLE}"'
    if policy.io_level is not None and policy.io_class is not DeclaredIoClass.BEST_EFFORT:
        yield "io_level", f'means nothing without io_class = "{DeclaredIoClass.BEST_EFFORT}"'


def _referring(declared: Declarations) -> Iterator[tuple[str, tuple[str | int, ...], str]]:
    """Each reference: to which noun, the key that holds it, and the name."""
    for name, policy in declared.policy.items():
        for noun, word in (("store", policy.store), ("pool", policy.pool)):
            if word is not None:
                yield noun, ("policy", name, noun), word
        for index, word in enumerate(policy.hooks):
            yield "hook", ("policy", name, "hooks", index), word
    for name, subclient in declared.subclient.items():
        if subclient.policy is not None:
            yield "policy", ("subclient", name, "policy"), subclient.policy
        for index, word in enumerate(subclient.include):
            yield "subclient", ("subclient", name, "include", index), word


def _circles(subclients: Mapping[str, Subclient]) -> Iterator[Flaw]:
    """Sub-clients that include themselves, one circle at a time; each is told of once."""
    graph = {name: set(each.include) & set(subclients) for name, each in subclients.items()}
    while graph:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]
            sentence = f"includes itself: {' → '.join(circle)}"
            yield Flaw(("subclient", circle[0], "include"), sentence)
            # Without what was told, others can be seen.
            graph[circle[0]] = set()
        else:
            return


def _conflicts(declared: Declarations) -> Iterator[Flaw]:
    """Volumes for which two policies would both decide what stays in the same place."""
    decided: dict[tuple[str, str], tuple[str, str]] = {}
    told = set()
    for subclient, volume, policy in _assignments(declared):
        for side in sorted(declared.policy[policy].make.sides):
            other, earlier = decided.setdefault((volume, side), (subclient, policy))
            if earlier != policy and (subclient, volume) not in told:
                told.add((subclient, volume))
                yield Flaw(
                    ("subclient", subclient, "policy"),
                    f"the policy {policy} would decide about points of {volume} ({side}), as the "
                    f"policy {earlier} of sub-client {other} does",
                )


def _assignments(declared: Declarations) -> Iterator[tuple[str, str, str]]:
    """Each sub-client with each of its volumes and its policy, where that is known."""
    for name, subclient in declared.subclient.items():
        if subclient.policy in declared.policy:
            for volume in volumes_of(declared.subclient, name):
                yield name, volume, subclient.policy


def policies_of(declared: Declarations, volume: str) -> dict[str, str]:
    """The policy that decides what stays of a volume, by side; a side that none has is missing."""
    return {
        side: policy
        for _, each, policy in _assignments(declared)
        for side in sorted(declared.policy[policy].make.sides)
        if each == volume
    }


def volumes_of(subclients: Mapping[str, Subclient], name: str) -> Sequence[str]:
    """The volumes of a sub-client and of all that it includes, each once, sorted."""
    left, seen, volumes = [name], {name}, set()
    while left:
        subclient = subclients.get(left.pop())
        if subclient is not None:
            volumes |= set(subclient.volumes)
            left += [each for each in subclient.include if each not in seen]
            seen |= set(subclient.include)
    return sorted(volumes)
