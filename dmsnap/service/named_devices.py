"""Which devices the words of a command named, for who begins it anew: after a boot, other devices
may have these names, and ``--overwrite`` was not about them.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmsnap.errors import DmsnapError, ForeignDeviceError
from dmsnap.host import inventory, kernel
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.device_path import names_device, names_place

# Among the arguments of a job.
LED_TO = "led_to"
_BOOT = "boot_id"


def with_devices(arguments: Mapping[str, object]) -> Mapping[str, object]:
    """What a command was asked for, with the devices behind the paths that do not say it
    themselves.
    """
    found: dict[str, str] = {}
    for word in arguments.values():
        if isinstance(word, str) and _may_be_exchanged(word):
            try:
                found[word] = inventory.device_identity(BlockDevice.probe(Path(word)).devno)
            except (DmsnapError, OSError):
                continue  # the command will say what is wrong with it
    return {**arguments, LED_TO: found | {_BOOT: kernel.boot_id()}} if found else arguments


def _may_be_exchanged(word: str) -> bool:
    if not word.startswith("/") or names_device(word):
        return False
    try:
        return stat.S_ISBLK(Path(word).stat().st_mode)
    except OSError:
        return False


def asked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a command was asked for, of the arguments of its job."""
    return {name: value for name, value in arguments.items() if name != LED_TO}


def require_same(arguments: Mapping[str, Any]) -> None:
    """Raise :class:`ForeignDeviceError` unless the words of a job lead to the devices that they
    named when it was begun.
    """
    known = dict(arguments.get(LED_TO) or {})
    same_boot = known.pop(_BOOT, None) == kernel.boot_id()
    for path, device in known.items():
        found = inventory.device_identity(BlockDevice.probe(Path(path)).devno)
        alone = inventory.is_telling(device) and not inventory.may_be_shared(device)
        certain = same_boot or names_place(path) or alone
        if found != device or not certain:
            raise ForeignDeviceError(
                f"{path} is {found} now, and was {device} when that was begun: it may be another "
                f"device",
                hint="give the command anew, with the device that is meant",
            )
