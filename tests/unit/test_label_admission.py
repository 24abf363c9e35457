"""Where what a label describes is mounted: labels come from other hosts, and from anybody."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from test_apply import first_label

from dmsnap._native.label import Label
from dmsnap.errors import CorruptError, WrongStateError
from dmsnap.extent import Extent
from dmsnap.host import kernel, mount
from dmsnap.service.swaps import label_admission
from dmsnap.service.swaps.label_admission import LabelRequest

HERE, THERE = uuid4(), uuid4()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "machine_id", lambda: HERE)


def described(place: Path) -> Label:
    label = first_label(Extent(0, 1))
    return replace(label, host_uuid=THERE, fs_type="ext4", mount_point=str(place))


def asked(mount_point: Path | None = None) -> LabelRequest:
    return LabelRequest(Path("/dev/null"), "store", mount=mount_point)


def test_a_label_of_another_host_covers_no_directory_with_something_in_it(tmp_path: Path) -> None:
    found = described(tmp_path)
    (record,) = label_admission.mounts_for(asked(), found)
    assert record.mount_point == str(tmp_path)
    (tmp_path / "shadow").write_text("precious")
    with pytest.raises(WrongStateError, match="has something in it"):
        label_admission.mounts_for(asked(), found)
    assert label_admission.mounts_for(asked(tmp_path), found) == (record,)
    assert label_admission.mounts_for(asked(), replace(found, host_uuid=HERE)) == (record,)


@pytest.mark.parametrize("fs_type", ["fuse.bash", "", "ext4 -o", "../ext4", "ext4\n"])
def test_a_type_that_is_none_reaches_no_program(fs_type: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="no type of a file system"):
        mount.mount(Path("/dev/null"), tmp_path, fs_type)
