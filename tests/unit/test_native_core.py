"""The stub against the module, and the table from error codes to exceptions."""

import ast
import errno
from pathlib import Path
from typing import Any

import pytest

import dmsnap._native
from dmsnap._native import core
from dmsnap._native._core import ffi, lib
from dmsnap.errors import (
    CorruptError,
    DeadlineError,
    DmsnapError,
    InterruptedBySignal,
    NoSpaceError,
    NotThisFormatError,
    OperatingSystemError,
    PointInvalidError,
    WrongStateError,
)

CODES = {
    "DMS_ERR_NO_MEMORY": OperatingSystemError,
    "DMS_ERR_OS": OperatingSystemError,
    "DMS_ERR_INVALID_ARGUMENT": DmsnapError,
    "DMS_ERR_OUT_OF_BOUNDS": CorruptError,
    "DMS_ERR_BAD_MAGIC": NotThisFormatError,
    "DMS_ERR_CHECKSUM": CorruptError,
    "DMS_ERR_CORRUPT": CorruptError,
    "DMS_ERR_UNSUPPORTED": CorruptError,
    "DMS_ERR_NO_METADATA_SNAPSHOT": WrongStateError,
    "DMS_ERR_STORE_FULL": NoSpaceError,
    "DMS_ERR_STORE_INVALID": PointInvalidError,
    "DMS_ERR_DEADLINE": DeadlineError,
    "DMS_ERR_CHANGED": WrongStateError,
}


class Library:
    """The library, but for the errors made here, which are not its own to free."""

    def __init__(self) -> None:
        self.destroyed: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def dms_error_destroy(self, error: Any) -> None:
        self.destroyed.append(error)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(core, "lib", library)
    return library


def make_error(code: str, message: str = "era array block 17: checksum", **fields: int) -> Any:
    error = ffi.new("struct dms_error *")
    error.code = getattr(lib, code)
    error.message = message.encode()
    error.errnum = fields.get("errnum", 0)
    error.offset_bytes = fields.get("offset_bytes", 2**64 - 1)
    return error


def raised_by(error: Any) -> DmsnapError:
    with pytest.raises(DmsnapError) as caught:
        core.check(error, "sdb")
    return caught.value


def stub_names() -> set[str]:
    stub = Path(dmsnap._native.__file__).with_name("_core.pyi")
    names = set()
    for node in ast.walk(ast.parse(stub.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == "_Lib":
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    names.add(member.name)
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    names.add(member.target.id)
    return names


def test_the_stub_is_the_module() -> None:
    assert stub_names() == set(dir(lib))


def test_the_table_is_complete() -> None:
    names = {name for name in dir(lib) if name.startswith("DMS_ERR_")}
    assert {*CODES, "DMS_ERR_CANCELLED"} == names


@pytest.mark.parametrize("code", CODES)
def test_class(code: str, library: Library) -> None:
    error = make_error(code)
    assert type(raised_by(error)) is CODES[code]
    assert library.destroyed == [error]


@pytest.mark.usefixtures("library")
def test_a_cancellation_without_a_cause_was_a_signal() -> None:
    with pytest.raises(InterruptedBySignal):
        core.check(make_error("DMS_ERR_CANCELLED"), "sdb")


@pytest.mark.usefixtures("library")
def test_sentence_and_fields() -> None:
    error = raised_by(make_error("DMS_ERR_CHECKSUM", offset_bytes=69632))
    assert str(error) == "sdb: era array block 17: checksum, at byte 69632"
    assert error.fields == {"device": "sdb", "offset_bytes": 69632}


@pytest.mark.usefixtures("library")
def test_system_call() -> None:
    error = raised_by(make_error("DMS_ERR_OS", "label: read", errnum=errno.EIO, offset_bytes=512))
    assert str(error) == "sdb: label: read: Input/output error, at byte 512"
    assert error.fields["errnum"] == errno.EIO


@pytest.mark.usefixtures("library")
def test_no_memory_has_an_errno() -> None:
    error = raised_by(make_error("DMS_ERR_NO_MEMORY", "out of memory"))
    assert error.fields["errnum"] == errno.ENOMEM


@pytest.mark.usefixtures("library")
def test_what_the_callback_raised_goes_on() -> None:
    reason = KeyError("from the callback")
    with pytest.raises(KeyError) as caught:
        core.check(make_error("DMS_ERR_CANCELLED"), "sdb", raised=reason)
    assert caught.value is reason


def test_null_is_success() -> None:
    core.check(ffi.NULL, "sdb")
