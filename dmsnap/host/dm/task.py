"""One device-mapper request through libdevmapper. Root.

The library keeps its state per process and has no locks: call it from one thread at a time.
"""

import errno
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dmsnap.errors import OperatingSystemError
from dmsnap.host.dm._libdm import ffi, lib
from dmsnap.host.dm.target import RawLine, TableLine
from dmsnap.host.system_call import failure
from dmsnap.units import to_bytes, to_sectors

if TYPE_CHECKING:
    from dmsnap.host.dm._libdm import CData

ACTIONS = {
    lib.DM_DEVICE_CREATE: "create",
    lib.DM_DEVICE_RELOAD: "load a table for",
    lib.DM_DEVICE_REMOVE: "remove",
    lib.DM_DEVICE_SUSPEND: "suspend",
    lib.DM_DEVICE_RESUME: "resume",
    lib.DM_DEVICE_INFO: "look at",
    lib.DM_DEVICE_DEPS: "list what is below",
    lib.DM_DEVICE_STATUS: "read the status of",
    lib.DM_DEVICE_TABLE: "read the table of",
    lib.DM_DEVICE_LIST: "list",
    lib.DM_DEVICE_CLEAR: "drop the inactive table of",
    lib.DM_DEVICE_LIST_VERSIONS: "list the dm targets of",
    lib.DM_DEVICE_TARGET_MSG: "send a message to",
}


class Task:
    """A ``struct dm_task``, from entering the context to leaving it.

    The kind is one of ``lib.DM_DEVICE_…``. Methods raise what ``system_call.failure`` gives for
    the errno: ``NotFoundError``, ``BusyError``, ``NotPermittedError``, ``OperatingSystemError``.
    """

    def __init__(self, kind: int, *, name: str | None = None, uuid: str | None = None) -> None:
        self._kind = kind
        self._name = name
        self._uuid = uuid
        self._task: CData = ffi.NULL

    def __enter__(self) -> "Task":
        lib.dms_dm_keep_messages()
        task = lib.dm_task_create(self._kind)
        if task == ffi.NULL:  # the library asked the driver for its version
            raise OperatingSystemError(
                f"cannot {self._action()}: the kernel's device-mapper does not answer",
                hint="load it with: modprobe dm-mod",
            )
        self._task = ffi.gc(task, lib.dm_task_destroy)
        if self._name is not None:
            self.check(lib.dm_task_set_name(self._task, self._name.encode()))
        if self._uuid is not None:
            self.check(lib.dm_task_set_uuid(self._task, self._uuid.encode()))
        return self

    def __exit__(self, *_: object) -> None:
        ffi.release(self._task)
        self._task = ffi.NULL

    @property
    def handle(self) -> "CData":
        """The C object, for the library's setters and getters."""
        return self._task

    def check(self, result: int) -> None:
        """The library's setters give 0 on failure: bad names, no memory."""
        if not result:
            raise self._failure(errno.EINVAL)

    def run(self) -> "Task":
        if not lib.dm_task_run(self._task):
            raise self._failure(lib.dm_task_get_errno(self._task) or errno.EIO)
        return self

    def _action(self) -> str:
        return f"{ACTIONS[self._kind]} {self._name or self._uuid or 'device-mapper'}"

    def _failure(self, errnum: int) -> Exception:
        message = ffi.string(lib.dms_dm_message()).decode(errors="replace")
        error = failure(self._action(), errnum, message.strip() or None)
        if errnum in (errno.EINVAL, errno.EIO):
            error.hint = "the kernel's log says why (dmesg)"
        return error

    def add_table(self, table: Sequence[TableLine]) -> None:
        for line in table:
            self.check(
                lib.dm_task_add_target(
                    self._task,
                    to_sectors(line.start_bytes),
                    to_sectors(line.length_bytes),
                    line.target.type_name.encode(),
                    line.target.parameters().encode(),
                )
            )

    def targets(self) -> Iterator[RawLine]:
        """The lines of a table or a status that was read."""
        start, length = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        type_name, parameters = ffi.new("char **"), ffi.new("char **")
        following = ffi.NULL
        while True:
            following = lib.dm_get_next_target(
                self._task, following, start, length, type_name, parameters
            )
            if type_name[0] != ffi.NULL:  # NULL: no table is loaded
                yield RawLine(
                    start_bytes=to_bytes(start[0]),
                    length_bytes=to_bytes(length[0]),
                    type_name=ffi.string(type_name[0]).decode(),
                    parameters=ffi.string(parameters[0]).decode().strip(),
                )
            if following == ffi.NULL:
                return
