"""Build description of ``dmsnap._native._core``: the C core, in cffi's API mode.

The declarations are lifted from the headers, between ``cffi: begin`` and ``cffi: end``, so that
they exist once and the compiler holds them against the code.
"""

import os
import re
from pathlib import Path

from cffi import FFI

NATIVE = Path("native")
HEADERS = (
    "error",
    "memory",
    "extent_set",
    "extent_text",
    "block_set",
    "era",
    "exception_store",
    "thin",
    "label",
    "copy",
    "digest",
    "store_check",
    "fs_map",
    "io_priority",
    "window",
)
LIBRARIES = ("uring", "xxhash")
COMPILE_ARGUMENTS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra")

CALLBACKS = """
extern "Python" int dms_python_progress(void *context, uint64_t bytes_done);
extern "Python" int dms_python_put_back(void *context);
"""


def declarations(header: Path) -> str:
    """The part of ``header`` that cffi may read: no preprocessor but plain numeric defines."""
    parts = re.findall(r"/\* cffi: begin \*/\n(.*?)/\* cffi: end \*/", header.read_text(), re.S)
    return "\n".join(parts)


def sources() -> list[str]:
    """Every C file of the core; programs of their own (``*_main.c``) are left out."""
    return sorted(
        str(path) for path in (NATIVE / "src").glob("*.c") if not path.stem.endswith("_main")
    )


def make_ffi() -> FFI:
    ffi = FFI()
    include = NATIVE / "include" / "dmsnap"
    for header in HEADERS:
        ffi.cdef(declarations(include / f"{header}.h"))
    ffi.cdef(CALLBACKS)
    ffi.set_source(
        "dmsnap._native._core",
        "\n".join(f"#include <dmsnap/{header}.h>" for header in HEADERS),
        sources=sources(),
        include_dirs=[str(NATIVE / "include")],
        libraries=list(LIBRARIES),
        extra_compile_args=[*COMPILE_ARGUMENTS, *os.environ.get("DMSNAP_CFLAGS", "").split()],
    )
    return ffi


ffi = make_ffi()
