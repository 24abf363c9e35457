"""Paths of devices, and what they are the names of."""

from pathlib import Path

from dmsnap.host import lun

_DEV = Path("/dev")
_PLACES = _DEV / "disk" / "by-path"


def names_device(path: str) -> bool:
    """Whether a recorded path is that of one device, whatever its number: the name of a LUN, what
    LVM or device-mapper made, a link to what a device says that it is.
    """
    place = Path(path)
    return lun.is_name(path) or (_DEV in place.parents and place.parent not in (_DEV, _PLACES))


def names_place(path: str) -> bool:
    """Whether a path is that of a place, as a slot or a port: no boot exchanges what is there, but
    people may.
    """
    return Path(path).parent == _PLACES
