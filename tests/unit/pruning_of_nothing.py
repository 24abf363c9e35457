"""Pruning as the command does it, of volumes that have labels and no devices: what it asks counts.

Nothing goes and nothing is to be put right: that is what each run of a policy asks of each volume.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from test_pruning import a_label

from dmsnap._native.label import Label
from dmsnap.catalogue.model import Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.host import systemd
from dmsnap.host.dm import device as dm
from dmsnap.recovery import replica
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.points import prune
from dmsnap.service.points.pruning import Side
from dmsnap.service.session import Session
from dmsnap.snapshot import live, stack

DECLARED = """
[policy.all]
primary = {{ minimum = 1000 }}
history = {{ minimum = 1000 }}

[subclient.all]
volumes = [{volumes}]
policy = "all"
"""


def prune_nothing(catalogue: Catalogue, directory: Path, names: Sequence[str] = ()) -> None:
    """Prune the volumes named, or all, by a policy that keeps everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMSNAP_CONFIG", str(directory / "dmsnap.toml"))
        patch.setattr(systemd, "UNITS", directory)
        patch.setattr(dm, "info", lambda *_names, **_uuid: None)
        patch.setattr(dm, "list_devices", lambda _prefix: [])
        patch.setattr(stack, "exists", lambda _device: False)
        patch.setattr(live, "with_validity", lambda _volume, point: point)
        patch.setattr(replica, "label_of", label_of)
        settings = Configuration(state_directory=directory, run_directory=directory)
        results = prune.prune(Session(settings, catalogue), names)
    for result in results:
        assert (result.error, result.notes) == (None, ())
        assert {each.side for each in result.points if each.stays} == set(Side)
        assert all(each.stays for each in result.points)


def declare(directory: Path, names: Sequence[str]) -> None:
    """Have these volumes under the policy; not part of what a pruning asks."""
    volumes = ", ".join(f'"{name}"' for name in names)
    (directory / "dmsnap.toml").write_text(DECLARED.format(volumes=volumes))


def label_of(volume: Volume) -> Label:
    assert volume.recovery_id is not None
    return replace(
        a_label(1, 2, 3),
        recovery_uuid=volume.recovery_id,
        volume_uuid=volume.id,
        point_uuid=uuid4(),
    )
