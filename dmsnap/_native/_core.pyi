"""What ``_core``, the compiled module, has: tests/unit/test_native_core.py compares the two."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

# Pointers and structures of C: their fields are what the headers in native/include say. At run
# time the name exists under TYPE_CHECKING only.
CData: TypeAlias = Any

class _FFI:
    NULL: CData
    def new(self, cdecl: str, init: object = ..., /) -> CData: ...
    def gc(self, cdata: CData, destructor: Callable[[CData], None], /) -> CData: ...
    def string(self, cdata: CData, /) -> bytes: ...
    def buffer(self, cdata: CData, size: int = ..., /) -> memoryview: ...
    def from_buffer(self, buffer: object, /) -> CData: ...
    def new_handle(self, value: object, /) -> CData: ...
    def from_handle(self, handle: CData, /) -> Any: ...
    def def_extern(
        self, *, name: str = ..., error: object = ..., onerror: Callable[..., None] = ...
    ) -> Callable[[Any], Any]: ...

ffi: Final[_FFI]

class _Lib:
    # error.h
    DMS_ERR_NO_MEMORY: int
    DMS_ERR_OS: int
    DMS_ERR_INVALID_ARGUMENT: int
    DMS_ERR_OUT_OF_BOUNDS: int
    DMS_ERR_BAD_MAGIC: int
    DMS_ERR_CHECKSUM: int
    DMS_ERR_CORRUPT: int
    DMS_ERR_UNSUPPORTED: int
    DMS_ERR_NO_METADATA_SNAPSHOT: int
    DMS_ERR_STORE_FULL: int
    DMS_ERR_STORE_INVALID: int
    DMS_ERR_CANCELLED: int
    DMS_ERR_DEADLINE: int
    DMS_ERR_CHANGED: int
    def dms_error_destroy(self, error: CData, /) -> None: ...

    # extent_set.h
    def dms_extent_set_create(self, extents: CData, /) -> CData: ...
    def dms_extent_set_destroy(self, extents: CData, /) -> None: ...
    def dms_extent_set_add(
        self, extents: CData, offset_bytes: int, length_bytes: int, /
    ) -> CData: ...
    def dms_extent_set_align(self, extents: CData, granularity_bytes: int, /) -> CData: ...
    def dms_extent_set_clamp(self, extents: CData, size_bytes: int, /) -> CData: ...
    def dms_extent_set_merge(self, extents: CData, other: CData, /) -> CData: ...
    def dms_extent_set_subtract(self, extents: CData, other: CData, /) -> CData: ...
    def dms_extent_set_count(self, extents: CData, /) -> int: ...
    def dms_extent_set_bytes(self, extents: CData, /) -> int: ...
    def dms_extent_set_extents(self, extents: CData, /) -> CData: ...

    # era.h
    def dms_era_metadata_open(self, fd: int, metadata: CData, /) -> CData: ...
    def dms_era_metadata_close(self, metadata: CData, /) -> None: ...
    def dms_era_metadata_superblock(self, metadata: CData, /) -> CData: ...
    def dms_era_written_since(
        self, metadata: CData, since: int, from_snapshot: bool, extents: CData, /
    ) -> CData: ...

    # exception_store.h
    def dms_exception_store_open(
        self, fd: int, offset_bytes: int, length_bytes: int, store: CData, /
    ) -> CData: ...
    def dms_exception_store_close(self, store: CData, /) -> None: ...
    def dms_exception_store_header(self, store: CData, /) -> CData: ...
    def dms_exception_store_count(self, store: CData, /) -> int: ...
    def dms_exception_store_exceptions(self, store: CData, /) -> CData: ...
    def dms_exception_store_extents(self, store: CData, extents: CData, /) -> CData: ...
    def dms_exception_store_size(self, nr_exceptions: int, chunk_size_sectors: int, /) -> int: ...

    # label.h
    DMS_LABEL_SECTOR_BYTES: int
    DMS_LABEL_AREA_BYTES: int
    DMS_LABEL_MAX_HISTORY: int
    DMS_LABEL_COPYING: int
    DMS_LABEL_CONSISTENT: int
    DMS_LABEL_APPLYING: int
    DMS_LABEL_MERGING: int
    DMS_LABEL_PRIMARY: int
    DMS_LABEL_KEEP: int
    def dms_label_offset(self, device_bytes: int, /) -> int: ...
    def dms_label_read(self, fd: int, device_bytes: int, label: CData, /) -> CData: ...
    def dms_label_write(self, fd: int, device_bytes: int, label: CData, /) -> CData: ...
    def dms_label_wipe(self, fd: int, device_bytes: int, /) -> CData: ...
    def dms_label_decode(self, sector: CData, device_bytes: int, label: CData, /) -> CData: ...
    def dms_label_encode(self, label: CData, sector: CData, /) -> CData: ...

    # copy.h
    dms_python_progress: CData
    def dms_copy_compare(
        self,
        source_fd: int,
        destination_fd: int,
        size_bytes: int,
        extents: CData,
        options: CData,
        undo: CData,
        stats: CData,
        different: CData,
        /,
    ) -> CData: ...
    def dms_copy_apply(
        self,
        source_fd: int,
        destination_fd: int,
        size_bytes: int,
        extents: CData,
        zero_detection: bool,
        options: CData,
        stats: CData,
        /,
    ) -> CData: ...
    def dms_copy_roll_back(
        self,
        store_fd: int,
        offset_bytes: int,
        length_bytes: int,
        destination_fd: int,
        size_bytes: int,
        options: CData,
        stats: CData,
        /,
    ) -> CData: ...

    # window.h
    DMS_WINDOW_SUSPEND: int
    DMS_WINDOW_SUSPEND_NO_FREEZE: int
    DMS_WINDOW_RESUME: int
    def dms_window_run(
        self,
        steps: CData,
        nr_steps: int,
        deadline_ms: int,
        watchdog_path: bytes,
        result: CData,
        /,
    ) -> CData: ...

lib: Final[_Lib]
