"""The device-mapper driver: its dm targets and their versions. Root."""

import contextlib
from typing import TYPE_CHECKING

from dmsnap.errors import DmsnapError, MissingTargetError, ProgramError
from dmsnap.host.dm._libdm import ffi, lib
from dmsnap.host.dm.task import Task
from dmsnap.host.run import run

if TYPE_CHECKING:
    from dmsnap.host.dm._libdm import CData

Version = tuple[int, int, int]


def targets() -> dict[str, Version]:
    """The dm targets that the kernel has loaded, with their versions."""
    with Task(lib.DM_DEVICE_LIST_VERSIONS) as task:
        raw = lib.dm_task_get_versions(task.run().handle)
        found: dict[str, Version] = {}
        while raw != ffi.NULL:
            found[ffi.string(raw.name).decode()] = _version(raw)
            raw = _next(raw)
        return found


def _version(raw: "CData") -> Version:
    return int(raw.version[0]), int(raw.version[1]), int(raw.version[2])


def _next(raw: "CData") -> "CData":
    if not raw.next:
        return ffi.NULL
    return ffi.cast("struct dm_versions *", ffi.cast("char *", raw) + raw.next)


def require_targets(*names: str) -> dict[str, Version]:
    """``targets()``, after modprobe of those of ``names`` that were missing.

    Raises ``MissingTargetError`` for the first that the kernel does not have.
    """
    present = _loaded_targets()
    for name in names:
        if name not in present:
            _modprobe(f"dm-{name}")
    present = targets()
    for name in names:
        if name not in present:
            raise MissingTargetError(name)
    return present


def _loaded_targets() -> dict[str, Version]:
    """As ``targets``, loading the driver itself when it does not answer."""
    try:
        return targets()
    except DmsnapError:
        _modprobe("dm-mod")
        return targets()


def _modprobe(module: str) -> None:
    """Built in, it needs no module and has none: only the list of targets decides."""
    with contextlib.suppress(ProgramError):
        run("modprobe", "--quiet", module)
