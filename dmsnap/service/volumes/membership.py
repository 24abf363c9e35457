"""What is declared, with the volumes that joined the default sub-client and were protected."""

from typing import TYPE_CHECKING

from dmsnap.catalogue.model import VolumeState
from dmsnap.service.session import Session

if TYPE_CHECKING:
    from dmsnap.service.configuration.declaration import Declarations


def declared_with_joined(session: Session, declared: "Declarations") -> "Declarations":
    """The declarations by which volumes are under policies: those that joined are in none."""
    # Imported where there are tables: pydantic takes a third of a command's start.
    from dmsnap.service.configuration.coherence import with_joined

    joined = [
        each.name
        for each in session.catalogue.volumes()
        if each.joined and each.state is not VolumeState.BUILDING
    ]
    return with_joined(declared, joined)
