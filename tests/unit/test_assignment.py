"""What a volume that is to be protected gets of the configuration."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dmsnap.errors import ConfigurationError, WrongWordError
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.session import Session
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.service.volumes.assignment import completed
from dmsnap.service.volumes.wanted_recovery import WantedRecovery

TABLES = """
[store.fast]
directory = "/srv/fast"
[store.group]
volume_group = "vg0"
[pool.disks]
volumes = ["/dev/disk/by-id/a"]
[policy.both]
store = "fast"
pool = "disks"
[policy.points]
make = "snapshot"
store = "group"
[policy.copies]
make = "recovery-volume"
store = "fast"
pool = "disks"
[subclient.one]
volumes = ["srv"]
policy = "both"
[subclient.two]
volumes = ["pg"]
policy = "points"
[subclient.three]
include = ["two"]
policy = "copies"
[subclient.four]
volumes = ["tmp"]
policy = "points"
"""
REQUEST = ProtectRequest(Path("/dev/sdb"), "srv", WantedRecovery(), "", 65536, 4096)
ONTO_DISK = REQUEST.onto("/dev/sdc")
SESSION = cast(Session, SimpleNamespace(configuration=Configuration()))
DEFAULT = "/var/lib/dmsnap/store"


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "etc"
    place.mkdir(mode=0o755)
    path = place / "tables.toml"
    path.write_text(TABLES)
    path.chmod(0o644)
    monkeypatch.setenv("DMSNAP_CONFIG", str(place))
    return path


@pytest.mark.parametrize(
    ("asked", "store", "pool"),
    [
        (REQUEST, "/srv/fast", "disks"),
        (replace(REQUEST, store="/mine"), "/mine", "disks"),
        (ONTO_DISK, "/srv/fast", ""),
        (replace(REQUEST, wanted=WantedRecovery(pool="others")), "/srv/fast", "others"),
        # Of two policies that of points on the primary says where those go.
        (replace(REQUEST, name="pg"), "vg0", "disks"),
        (replace(REQUEST, name="unknown", wanted=WantedRecovery(pool="disks")), DEFAULT, "disks"),
        (replace(ONTO_DISK, name="tmp"), "vg0", ""),
    ],
)
def test_the_policy_says_what_the_command_does_not(
    asked: ProtectRequest, store: str, pool: str
) -> None:
    found = completed(SESSION, asked)
    assert (found.store, found.wanted.pool) == (store, pool)
    assert found.wanted.recovery == asked.wanted.recovery


@pytest.mark.parametrize("name", ["unknown", "tmp"])
def test_somebody_must_say_where_the_copy_goes(name: str) -> None:
    with pytest.raises(WrongWordError, match=f"what {name} is to be copied to") as caught:
        completed(SESSION, replace(REQUEST, name=name))
    assert caught.value.hint


def test_nothing_in_a_pool_is_overwritten() -> None:
    with pytest.raises(WrongWordError, match="--overwrite"):
        completed(SESSION, replace(REQUEST, wanted=WantedRecovery(overwrite=True)))


def test_mistakes_matter_only_where_tables_are_asked(tables: Path) -> None:
    tables.write_text(TABLES + "[policy.wrong]\nkeeep = 1\n")
    with pytest.raises(ConfigurationError, match="keeep"):
        completed(SESSION, ONTO_DISK)
    named = replace(ONTO_DISK, store="/mine")
    assert completed(SESSION, named) == named


def test_without_policies_no_table_is_read(tables: Path) -> None:
    tables.write_text('[pool.disks]\nvolumes = ["a mistake"]\n')
    assert completed(SESSION, ONTO_DISK).store == DEFAULT
