"""What is declared, with the volumes that joined the default sub-client and were protected."""

from typing import TYPE_CHECKING

from dmsnap.catalogue.model import VolumeState
from dmsnap.service.session import Session

if TYPE_CHECKING:
    from dmsnap.service.configuration.declaration import Declarations


def declared_now(session: Session) -> "Declarations":
    """What the files declare, with those that joined; ``ConfigurationError`` when they have any
    mistake: nothing is done by half a policy.
    """
    # Imported where there are tables: pydantic takes a third of a command's start.
    from dmsnap.service.configuration import configuration_check

    return declared_with_joined(session, configuration_check.require().declared)


def declared_with_joined(session: Session, declared: "Declarations") -> "Declarations":
    """The declarations by which volumes are under policies: those that joined are in none."""
    from dmsnap.service.configuration.coherence import with_joined

    joined = [
        each.name
        for each in session.catalogue.volumes()
        if each.joined and each.state is not VolumeState.BUILDING
    ]
    return with_joined(declared, joined)
