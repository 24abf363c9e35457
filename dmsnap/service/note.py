"""Notes in the state directory: what is to be recorded of a volume, and could not be yet.

The catalogue may be on a server that is away, or on a disk that is full. A note is a file beside
it, an object in JSON with the members of a dataclass.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dmsnap.errors import CorruptError
from dmsnap.host.replacement import replace_file
from dmsnap.host.system_call import system_call

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Note = TypeVar("Note", bound=DataclassInstance)


def write(path: Path, note: "DataclassInstance") -> None:
    """Make it the note at ``path``, durably, in place of another one."""
    replace_file(path, json.dumps(asdict(note)) + "\n")


def read(path: Path, kind: "type[Note]", *, says: str, hint: str) -> "Note | None":
    """The note at ``path``; None where there is none.

    :class:`CorruptError` when it has not the members of ``kind``, or that refuses what they say
    (:class:`ValueError`): it cannot be told then what it ``says``, and ``hint`` is what to do.
    """
    with system_call(f"read {path}"):
        text = path.read_bytes() if path.exists() else None
    if text is None:
        return None
    try:
        return kind(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise CorruptError(f"{path} is damaged: it says {says}", hint=hint) from error
