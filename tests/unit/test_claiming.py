"""What the policy says of a full history: claims, the sentence about it, and that it is kept."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from catalogue_samples import a_point, a_volume
from test_history import OFFSET, a_label, an_entry

from dmsnap.catalogue import jobs
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.errors import ConfigurationError
from dmsnap.policy.claims import Claim
from dmsnap.service import journal
from dmsnap.service.configuration.configuration import Configuration
from dmsnap.service.health import look, status
from dmsnap.service.journal import Plan
from dmsnap.service.points.claiming import TOO_SMALL, Claiming
from dmsnap.service.session import Session
from dmsnap.units import MIB

HOUR = 3600 * 10**9
VOLUME = replace(a_volume(), state=VolumeState.PROTECTED, recovery="/dev/sdz")
TEXT = """
[policy.some]
history = { keep = "6h", minimum = 1 }
[subclient.s]
volumes = ["srv"]
policy = "some"
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "dmsnap.toml"
    path.write_text(TEXT)
    monkeypatch.setenv("DMSNAP_CONFIG", str(path))
    return path


@pytest.fixture
def session(catalogue: Catalogue, tmp_path: Path) -> Session:
    catalogue.add_volume(VOLUME)
    return Session(Configuration(state_directory=tmp_path), catalogue)


def test_the_claims_of_a_policy(configured: Path, session: Session) -> None:
    ages = (1, 20)
    young, old = (
        replace(an_entry(OFFSET + at * MIB, MIB), point_time_ns=now_ns() - age * HOUR)
        for at, age in enumerate(ages)
    )
    own = replace(
        a_point(VOLUME, now_ns() - 30 * HOUR), area_id=None, keep=False, expires_ns=now_ns() + HOUR
    )
    session.catalogue.add_point(own)
    lasting = replace(
        an_entry(OFFSET + 2 * MIB, MIB), point_uuid=own.id, point_time_ns=own.created_ns
    )
    label = replace(a_label(young, old, lasting), point_time_ns=now_ns() - HOUR // 2)
    claiming = Claiming.of(session, VOLUME, label, a_point(VOLUME, now_ns()))
    found = [claiming.claims[each.point_uuid] for each in label.history]
    assert found == [Claim.AGE, Claim.NONE, Claim.EXPIRY]
    assert "though the policy some keeps it" in claiming.reason(own)
    gone = a_point(replace(VOLUME, id=uuid4()), 1)
    assert claiming.reason(gone) == "no rule keeps it, and the history had no room for it"


def test_without_a_policy_nothing_is_claimed(configured: Path, session: Session) -> None:
    for text in ("", TEXT.replace('["srv"]', '["other"]'), TEXT.replace("history", "primary")):
        configured.write_text(text)
        claiming = Claiming.of(session, VOLUME, a_label(), a_point(VOLUME, 1))
        assert claiming.claims == {}
        assert claiming.reason(a_point(VOLUME, 1)) == "the history had no room for it"


def test_with_a_mistake_it_is_not_known(configured: Path, session: Session) -> None:
    configured.write_text(TEXT.replace("minimum", "minimun"))
    with pytest.raises(ConfigurationError, match="which ones its policy keeps cannot be known"):
        Claiming.of(session, VOLUME, a_label(), a_point(VOLUME, 1))


def synced(session: Session, given_up: int) -> list[str]:
    """What status says of the history behind a sync that gave up so many."""
    claiming = Claiming("some")
    plan = Plan("sync", (VOLUME.id,), [], remark=lambda: claiming.remark(given_up))
    journal.run(session.catalogue, plan)
    (looked,) = look.look_up(session, [VOLUME])
    last = jobs.newest_done(session.catalogue, VOLUME.id, "sync")
    assert looked.recorded.last_sync == last
    return status.history_shortage(VOLUME, looked.recorded.last_sync)


def test_status_says_so_until_a_sync_gave_up_none(session: Session) -> None:
    assert status.history_shortage(VOLUME, None) == []
    (problem,) = synced(session, 2)
    assert problem.startswith(f"{TOO_SMALL}some: 2 points went that it keeps (sync of ")
    assert synced(session, 0) == []
    assert "one point went" in synced(session, 1)[0]
