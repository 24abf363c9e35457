"""The volumes that the last look at the host found, in a small file: what the next one goes by."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dmsnap.host.replacement import replace_file
from dmsnap.host.system_call import system_call

log = logging.getLogger(__name__)

FILE = "discovered.json"


@dataclass(frozen=True, slots=True)
class Seen:
    """A volume as it was last seen. ``tried_ns``: when a run last began to protect it."""

    identity: str
    device: str
    size_bytes: int
    first_seen_ns: int
    tried_ns: int | None = None
    mounted: bool | None = None  # earlier versions did not remember it


def read(directory: Path) -> dict[str, Seen]:
    """By identity. A file that cannot be told any more counts as none: then all is new."""
    path = directory / FILE
    with system_call(f"read {path}"):
        try:
            text = path.read_text()
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError:
            text = ""
    try:
        found = [_seen(**each) for each in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        log.warning("%s is damaged: every volume counts as new", path)
        return {}
    return {each.identity: each for each in found}


def write(directory: Path, seen: Iterable[Seen]) -> None:
    """Put what was seen now in the place of what was seen before. Of twins one is remembered."""
    path = directory / FILE
    text = json.dumps([asdict(each) for each in seen], indent=1) + "\n"
    if not path.exists() or path.read_bytes() != text.encode():
        replace_file(path, text, mode=0o600)


def note_attempt(directory: Path, identity: str, now_ns: int) -> None:
    """Remember that a run is about to protect a volume. Called with the directory's lock held."""
    known = read(directory)
    if identity in known:
        known[identity] = replace(known[identity], tried_ns=now_ns)
        write(directory, known.values())


def _seen(
    *,
    identity: str,
    device: str,
    size_bytes: int,
    first_seen_ns: int,
    tried_ns: int | None = None,
    mounted: bool | None = None,
) -> Seen:
    tried_ns = None if tried_ns is None else int(tried_ns)
    mounted = None if mounted is None else bool(mounted)
    return Seen(str(identity), str(device), int(size_bytes), int(first_seen_ns), tried_ns, mounted)
