"""What the configuration gives a volume that is to be protected: its store, and its pool."""

from dataclasses import replace
from typing import TYPE_CHECKING

from dmsnap.errors import WrongWordError
from dmsnap.service.configuration import configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes.admission import ProtectRequest

if TYPE_CHECKING:
    from dmsnap.service.configuration.declaration import Declarations, Store


def completed(session: Session, request: ProtectRequest) -> ProtectRequest:
    """The request with what it does not say: the policy's, and then the settings'.

    Points on the primary go where the policy that decides about those has its store. Tables are
    read only when they are asked: ``ConfigurationError`` when they have mistakes then.
    ``WrongWordError`` when nothing says where the copy is to go.
    """
    if not request.store or not (request.wanted.recovery or request.wanted.pool):
        request = _by_policy(session, request)
    wanted = request.wanted
    if not request.store:
        request = replace(request, store=session.configuration.default_store)
    if not wanted.recovery and not wanted.pool:
        raise WrongWordError(
            f"nothing says what {request.name} is to be copied to",
            hint="give --recovery DEVICE or --pool POOL, or have a policy name a pool for it",
        )
    if wanted.pool and wanted.overwrite:
        raise WrongWordError(
            f"--overwrite is for a device that --recovery names alone: of the pool {wanted.pool} "
            f"only what is free is taken",
        )
    return request


def _by_policy(session: Session, request: ProtectRequest) -> ProtectRequest:
    if not configuration.declares(session.configuration.iscsi_secrets, "policy"):
        return request
    # Imported where there are tables: pydantic takes a third of a command's start.
    from dmsnap.service.configuration import configuration_check

    declared = configuration_check.require().declared
    store = request.store or store_of(declared, request.name) or ""
    wanted = request.wanted
    if not wanted.recovery and not wanted.pool:
        wanted = replace(wanted, pool=pool_of(declared, request.name) or "")
    return replace(request, store=store, wanted=wanted)


def store_of(declared: "Declarations", volume: str) -> str | None:
    """The store that the volume's policies give it, as ``--store`` would have it."""
    from dmsnap.service.configuration.coherence import policies_of

    policies = policies_of(declared, volume)
    for side in ("primary", "history"):
        name = declared.policy[policies[side]].store if side in policies else None
        if name is not None:
            return store_word(declared.store[name])
    return None


def store_word(store: "Store") -> str:
    """A declared store as ``--store`` would have it."""
    return str(store.directory or store.volume_group)


def pool_of(declared: "Declarations", volume: str) -> str | None:
    """The pool of the policy under which the volume has a recovery volume."""
    from dmsnap.service.configuration.coherence import policies_of

    policies = policies_of(declared, volume)
    return declared.policy[policies["history"]].pool if "history" in policies else None
