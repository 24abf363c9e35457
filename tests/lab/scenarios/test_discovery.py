"""Discover: the volumes of a host, by their UUIDs; components and what is ours are none."""

from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, Lab, administrator, dmsnap, run
from test_resize import enlarge, image_of

SIZE = 32 * MIB

POLICY = """
[policy.tell]
new_volumes = "report"
[subclient.default]
policy = "tell"
left_out = ["{left_out}"]
"""


def look(expected: int | None = None) -> Any:
    return dmsnap("discover", expected=expected)


def by_device(found: Any) -> dict[str, Any]:
    return {each["device"]: each for each in found["volumes"]}


def test_it_finds_volumes_of_every_kind_and_no_components(lab: Lab) -> None:
    plain, recovery, group_disk, empty = (
        lab.disk(size) for size in (SIZE, 80 * MIB, 64 * MIB, SIZE)
    )
    place = lab.mounted(plain)
    group = lab.group(group_disk)
    administrator("lvcreate", "-qq", "-y", "-L", "32m", "-n", "data-set", group)
    lv = f"/dev/mapper/{group}-data--set"
    run("mkfs.ext4", "-q", lv)
    swap = lab.disk(SIZE)
    run("mkswap", "-q", swap)
    found = by_device(look(0))
    assert {plain, lv} <= set(found)
    assert not {group_disk, empty, swap} & set(found)
    assert (found[plain]["kind"], found[plain]["role"], found[plain]["new"]) == (
        "loop", "unprotected", True,
    )  # fmt: skip
    assert found[plain]["mount_points"] == [str(place)]
    assert found[lv]["kind"] == "lv"
    assert "lv:" in found[lv]["identity"]
    assert not by_device(look(0))[lv]["new"]

    name = lab.protect(plain, recovery)
    dmsnap("point", "create", name)
    found = by_device(look(0))
    assert (found[plain]["role"], found[plain]["volume"]) == ("protected", name)
    assert (found[recovery]["role"], found[recovery]["volume"]) == ("recovery", name)
    ours = [device for device in found if "dmsnap-" in device or device.endswith(name)]
    assert ours == []
    known = {plain, recovery, lv}
    assert {device for device in found if device.startswith("/dev/loop")} <= known


def test_new_vanished_and_resized_volumes_and_twins_are_told_of(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, recovery, other = lab.disk(SIZE), lab.disk(80 * MIB), lab.disk(SIZE)
    configuration = tmp_path / "dmsnap.toml"
    lab.mounted(primary)
    run("mkfs.ext4", "-q", other)
    name = lab.protect(primary, recovery)
    look(0)
    configuration.write_text(POLICY.format(left_out="/nowhere"))
    monkeypatch.setenv("DMSNAP_CONFIG", str(configuration))
    (finding,) = [each for each in look(24)["findings"] if other in each]
    assert "is not protected" in finding
    configuration.write_text(POLICY.format(left_out=other))
    assert other not in str(look()["findings"])

    # A copy of the protected volume, as a clone on the storage side makes one.
    twin = lab.disk(SIZE)
    run("dd", f"if={primary}", f"of={twin}", "bs=1M", "conv=fsync", "status=none")
    findings = look(24)["findings"]
    assert any("same file system UUID" in each and twin in each for each in findings), findings
    run("wipefs", "-qa", twin)
    assert "same file system UUID" not in str(look()["findings"])

    enlarge(lab, primary, 2 * SIZE)
    assert f"dmsnap resize {name}" in str(look(24)["findings"])
    enlarge(lab, primary, SIZE)
    assert "made larger" not in str(look()["findings"])

    # Under another name it is the same volume; then it is gone.
    image = image_of(other)
    between = lab.disk(SIZE)
    run("losetup", "-d", other)
    lab.loops.remove(other)
    run("losetup", "-d", between)
    lab.loops.remove(between)
    run("losetup", between, image)
    found = look()
    assert "has vanished" not in str(found["findings"])
    assert not by_device(found)[between]["new"]
    run("losetup", "-d", between)
    assert "has vanished" in str(look(24)["findings"])
    assert "has vanished" not in str(look()["findings"])
