"""Whom a file is to be trusted to."""

import os
from pathlib import Path

import pytest

from dmsnap.errors import NotPermittedError, OperatingSystemError
from dmsnap.host.trust import require_trusted

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    directory = tmp_path / "hooks"
    directory.mkdir(mode=0o755)
    file = directory / "hook"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_what_nobody_else_can_change_is_trusted(hook: Path) -> None:
    require_trusted(hook)
    require_trusted(hook.parent / ".." / "hooks" / "hook")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o722])
def test_a_file_that_others_can_write_to_is_not(hook: Path, mode: int) -> None:
    hook.chmod(mode)
    with pytest.raises(NotPermittedError, match=f"hook has the mode 0{mode:o}") as caught:
        require_trusted(hook)
    assert str(hook) in str(caught.value.hint)


def test_nor_one_in_a_directory_that_others_can_write_to(hook: Path) -> None:
    hook.parent.chmod(0o777)
    with pytest.raises(NotPermittedError, match="hooks has the mode 0777"):
        require_trusted(hook)
    hook.parent.chmod(0o1777)
    require_trusted(hook)


@as_root
def test_nor_what_somebody_else_owns(hook: Path) -> None:
    os.chown(hook, 4711, 0)
    with pytest.raises(NotPermittedError, match="is owned by uid 4711"):
        require_trusted(hook)
    os.chown(hook, 0, 0)
    os.chown(hook.parent, 4711, 0)
    with pytest.raises(NotPermittedError, match="hooks is owned by uid 4711"):
        require_trusted(hook)


def test_a_link_is_as_good_as_all_that_it_leads_through(hook: Path, tmp_path: Path) -> None:
    between = tmp_path / "between"
    between.mkdir()
    (between / "link").symlink_to("../hooks/hook")
    first = tmp_path / "first"
    first.symlink_to(between / "link")
    require_trusted(first)
    between.chmod(0o777)
    with pytest.raises(NotPermittedError, match="between has the mode 0777"):
        require_trusted(first)


def test_links_that_lead_in_circles_or_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OperatingSystemError, match="more than 40 links"):
        require_trusted(tmp_path / "a")
    (tmp_path / "c").symlink_to("none")
    with pytest.raises(OperatingSystemError, match="none cannot be looked at: No such file"):
        require_trusted(tmp_path / "c")
