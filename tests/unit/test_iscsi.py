"""Node records, secrets and where they are read from."""

import copy
import json
import logging
import os
import pickle
import traceback
from pathlib import Path

import pytest

from dmsnap.cli import json_value
from dmsnap.errors import ConfigurationError, WrongStateError
from dmsnap.host import iscsi
from dmsnap.host.iscsi import Chap
from dmsnap.host.portal import Portal
from dmsnap.secret import MASK, Secret
from dmsnap.service.configuration import credentials

TARGET = "iqn.2003-01.org.example:store"
RECORD = """# BEGIN RECORD 2.1.8
node.name = iqn.2003-01.org.example:store
node.startup = automatic
node.session.auth.authmethod = None
# END RECORD
"""


def test_a_secret_masks_itself(caplog: pytest.LogCaptureFixture) -> None:
    chap = Chap("joe", Secret("hush-hush"), "store", Secret("and-back"))
    logging.getLogger("test").warning("%s %r", chap.secret, chap)
    shown = [repr(chap), str(chap.secret), f"{chap.secret}", caplog.text]
    shown.append(json_value.dumps(chap))
    for text in shown:
        assert "hush" not in text
        assert "back" not in text
        assert MASK in text
    assert json.loads(json_value.dumps(chap))["secret"] == MASK
    with pytest.raises(TypeError):
        pickle.dumps(chap.secret)
    with pytest.raises(TypeError):
        copy.deepcopy(chap.secret)
    assert chap.secret == Secret("hush-hush")
    assert chap.secret != chap.secret.reveal()


def test_values_of_a_record_are_replaced_or_added() -> None:
    new = iscsi.with_values(RECORD, {"node.startup": "manual", **iscsi.chap_values(None)})
    assert new.splitlines() == [
        "# BEGIN RECORD 2.1.8",
        "node.name = iqn.2003-01.org.example:store",
        "node.startup = manual",
        "node.session.auth.authmethod = None",
        "# END RECORD",
    ]
    chap = iscsi.chap_values(Chap("joe", Secret("hush"), "store", Secret("back")))
    lines = iscsi.with_values(new, chap).splitlines()
    assert lines.count("node.session.auth.authmethod = CHAP") == 1
    assert "node.session.auth.password = hush" in lines
    assert "node.session.auth.password_in = back" in lines
    assert lines[-1] == "# END RECORD"


def test_records_are_found_in_both_of_their_forms(tmp_path: Path) -> None:
    target = tmp_path / TARGET
    (target / "192.0.2.7,3260,1").mkdir(parents=True)
    names = ["192.0.2.7,3260,1/default", "192.0.2.7,32601", "192.0.2.77,3260", "192.0.2.8,3260"]
    left = "192.0.2.7,3260,1/.default.dmsnap-0123abcd"  # by who was killed over the record
    for name in (*names, left):
        (target / name).touch()

    def found(address: str, port: int) -> list[str]:
        files = iscsi.record_files(Portal(address, port), TARGET, databases=(tmp_path,))
        return [str(path.relative_to(target)) for path in files]

    assert found("192.0.2.7", 3260) == ["192.0.2.7,3260,1/default"]
    assert found("192.0.2.8", 3260) == ["192.0.2.8,3260"]
    assert found("192.0.2.9", 3260) == []


def test_records_of_other_interfaces_are_none_of_ours(tmp_path: Path) -> None:
    """A file for all, where the portal group is not known, is replaced by a new one as a whole."""
    target, portal = tmp_path / TARGET, Portal("192.0.2.7", 3260)
    (target / "192.0.2.7,3260,1").mkdir(parents=True)
    (target / "192.0.2.7,3260,1" / "offload").write_text("iface.iscsi_ifacename = default\n")
    assert iscsi.record_files(portal, TARGET, databases=(tmp_path,)) == []
    iscsi.require_free(portal, TARGET, databases=(tmp_path,))
    for_all = target / "192.0.2.7,3260"
    for_all.write_text("node.name = x\niface.iscsi_ifacename = offload\n")
    assert iscsi.record_files(portal, TARGET, databases=(tmp_path,)) == []
    with pytest.raises(WrongStateError, match="for the interface offload"):
        iscsi.require_free(portal, TARGET, databases=(tmp_path,))
    for_all.write_text("iface.iscsi_ifacename = default\n")
    assert iscsi.record_files(portal, TARGET, databases=(tmp_path,)) == [for_all]


def test_the_portal_group_is_the_one_that_the_portal_has() -> None:
    listed = (
        "192.0.2.8:3260,1 iqn.other",
        f"192.0.2.8:3260,2 {TARGET}",
        f"192.0.2.7:3260,3 {TARGET}",
        f"[2001:db8::1]:3260,4 {TARGET}",
        f"192.0.2.9:3260,-1 {TARGET}",
    )
    lines = [line.split() for line in listed]
    groups = {
        address: iscsi.group_in(lines, Portal(address, 3260), TARGET)
        for address in ("192.0.2.7", "192.0.2.8", "192.0.2.9", "2001:db8::1", "192.0.2.1")
    }
    assert groups == {
        "192.0.2.7": 3, "192.0.2.8": 2, "192.0.2.9": None, "2001:db8::1": 4, "192.0.2.1": None
    }  # fmt: skip


def written(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "iscsi.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_credentials_are_those_of_the_target(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f'["{TARGET}"]\nuser = "joe"\nsecret = "hush"\n'
        '["iqn.other"]\nuser = "ann"\nsecret = "s"\ntarget_user = "t"\ntarget_secret = "r"\n',
    )
    assert credentials.chap_of(path, TARGET) == Chap("joe", Secret("hush"))
    assert credentials.chap_of(path, "iqn.other") == Chap("ann", Secret("s"), "t", Secret("r"))
    assert credentials.chap_of(path, "iqn.none") is None
    assert credentials.chap_of(tmp_path / "none", TARGET) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, f'["{TARGET}"]\nuser = "joe"\nsecret = "hush"\n', mode)
    with pytest.raises(ConfigurationError, match="others can read"):
        credentials.chap_of(path, TARGET)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f'["{TARGET}"]\nuser = "joe"\nsecret = "hush"\n')
    os.chown(path, 1000, 0)
    with pytest.raises(ConfigurationError, match="is owned by uid 1000"):
        credentials.chap_of(path, TARGET)


@pytest.mark.parametrize(
    "body",
    [
        "user = joe hush",
        'user = "joe',
        'user = "joe"',
        'secret = "hush"',
        'user = "joe"\nsecret = "hush"\npassword = "hush"',
        'user = "joe"\nsecret = "hush\\nnode.name = hush"',
        'user = "joe"\nsecret = 123456789',
        'user = "joe"\nsecret = "hush"\ntarget_secret = "hush"',
        'user = ""\nsecret = "hush"',
    ],
)
def test_mistakes_are_named_without_what_is_secret(tmp_path: Path, body: str) -> None:
    path = written(tmp_path, f'["{TARGET}"]\n{body}\n')
    with pytest.raises(ConfigurationError) as caught:
        credentials.chap_of(path, TARGET)
    trace = "".join(traceback.format_exception(caught.value))
    assert str(path) in str(caught.value)
    assert "hush" not in trace
    assert "123456789" not in trace
