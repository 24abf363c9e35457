"""What a volume is called that a run protects: by its logical volume, label or UUID, the same
each time.
"""

import hashlib
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dmsnap.errors import WrongWordError
from dmsnap.host.inventory import VolumeKind
from dmsnap.service.volumes import admission

if TYPE_CHECKING:
    from dmsnap.service.volumes.discovery import Discovered

_MAX_LETTERS = 64
_MARK_DIGITS = 8
_STRANGE = re.compile(r"[^A-Za-z0-9._+-]+")
_NO_BEGINNING = re.compile(r"^[^A-Za-z0-9]+")


def name_for(volume: "Discovered", taken: Container[str]) -> str | None:
    """The first name that is valid and not taken; None where there is none."""
    for name in _names(volume):
        if name not in taken and _is_valid(name):
            return name
    return None


def _names(volume: "Discovered") -> Iterator[str]:
    """As it is known; then with a mark of its identity, which tells it from its namesakes."""
    words = [_of_lv(volume.device)] if volume.kind is VolumeKind.LOGICAL_VOLUME else []
    words += [volume.label, f"{volume.fs_type}-{volume.fs_uuid[:_MARK_DIGITS]}"]
    word = next(found for found in map(_spelled, words) if found)
    yield word[:_MAX_LETTERS]
    mark = hashlib.sha256(volume.identity.encode()).hexdigest()[:_MARK_DIGITS]
    yield f"{word[: _MAX_LETTERS - _MARK_DIGITS - 1]}-{mark}"
    yield f"volume-{mark}"


def _of_lv(device: str) -> str:
    """``vg_lv``: as ``vg-lv`` LVM has the device already. Hyphens of names are double there."""
    name = Path(device).name.replace("--", "\0")
    return name.replace("-", "_", 1).replace("\0", "-")


def lv_of(device: str) -> str:
    """The logical volume's own name."""
    return Path(device).name.replace("--", "\0").partition("-")[2].replace("\0", "-")


def _spelled(word: str) -> str:
    """With nothing in it that no name has; labels hold whatever somebody wrote there."""
    return _NO_BEGINNING.sub("", _STRANGE.sub("_", word)).rstrip("_")


def _is_valid(name: str) -> bool:
    try:
        admission.check_name(name)
    except WrongWordError:
        return False
    return True
