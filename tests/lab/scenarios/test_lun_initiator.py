"""Recovery volumes on LUNs, the initiator's side: logging in, finding the disk, logging out."""

from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import initiator as other_side
import lun_target
import pytest
from conftest import (
    SCRATCH,
    Lab,
    catalogue_rows,
    dmsnap,
    dmsnap_process,
    forked,
    refused,
    run,
    sha256,
    world,
)
from lun_target import LunTarget
from lun_volume import LUN_SIZE, SIZE, OnLun, image_of, serving
from patience import until
from raw_volume import fill

from dmsnap.errors import ExitCode

SECRETS = Path("/etc/dmsnap/iscsi.toml")
SECOND = "second"
SECRET = "not-for-your-eyes"  # noqa: S105 - of the lab


@pytest.fixture(scope="module", autouse=True)
def initiator() -> None:
    lun_target.load_modules()
    lun_target.start_iscsid()


@pytest.fixture
def target() -> Iterator[LunTarget]:
    with serving(LunTarget("127.0.0.1:3260")) as made:
        yield made
    SECRETS.unlink(missing_ok=True)
    (SCRATCH / "other.img").unlink(missing_ok=True)


def log_out() -> None:
    """Of every session, until the kernel has none."""
    run("iscsiadm", "-m", "session", "--logout")
    until(lambda: lun_target.sessions() == {}, "all sessions are gone")


def test_a_lun_is_the_recovery_volume(target: LunTarget, lab: Lab) -> None:
    volume = OnLun(lab, target)
    volume.check_equal()
    assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
    (record,) = lun_target.records()
    assert "node.startup = manual" in Path(record).read_text()
    (status,) = dmsnap("status", volume.name)
    ((recorded,),) = catalogue_rows("select recovery from volume where removed_ns is null")
    assert status["replica"]["device"] == recorded
    assert recorded.startswith(f"{target.url(1)}#naa.")
    volume.dirty()
    assert volume.sync()["tracker"] == "era"
    volume.check_equal()
    volume.unprotect()


def test_a_session_that_is_gone_is_made_again(target: LunTarget, lab: Lab) -> None:
    volume = OnLun(lab, target)
    log_out()
    # Who only looks, logs in to nothing.
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert "no session" in status["problems"][0]
    assert lun_target.sessions() == {}
    volume.dirty()
    volume.sync()
    volume.check_equal()
    # The record is gone, too: as where /etc was restored from a backup.
    lun_target.end_all_sessions()
    volume.dirty()
    volume.sync()
    volume.check_equal()
    volume.unprotect()


def test_a_disk_that_took_the_name_of_the_lun_is_not_touched(target: LunTarget, lab: Lab) -> None:
    """Kernel names go to whoever logs in first; both are LUN 1, and as large."""
    volume = OnLun(lab, target)
    name = lun_target.disk_of(target.iqn)
    log_out()
    until(lambda: not name.exists(), "the name is free")
    with serving(LunTarget("127.0.0.1:3262")) as other:
        image = image_of(other)
        fill(image, LUN_SIZE)
        content = sha256(image)
        for action in (("-o", "new"), ("--login",)):
            run("iscsiadm", "-m", "node", "-T", other.iqn, "-p", other.portal, *action)
        assert other_side.disks(1) == [name.name]
        volume.dirty()
        volume.sync("--audit", "full")
        assert lun_target.disk_of(target.iqn) != name
        volume.check_equal()
        dmsnap("verify", volume.name, "--full")
        dmsnap("swap", volume.name)
        dmsnap("swap", "revert", volume.name)
        dmsnap("unprotect", volume.name, "--forget")
        assert lun_target.sessions() == {other.iqn: "LOGGED_IN"}
        assert sha256(image) == content


def test_what_cannot_be_logged_in_to_leaves_nothing(target: LunTarget, lab: Lab) -> None:
    primary = lab.disk(SIZE)
    before = world(lab, primary)
    address, iqn = target.portal, target.iqn
    for url, code, words in (
        (f"iscsi://{address}/{iqn}/7", ExitCode.NOT_FOUND, "has no LUN 7"),
        (f"iscsi://{address}/iqn.2026-11.org.example.lab:no/1", ExitCode.NOT_FOUND, "offers no"),
        (f"iscsi://127.0.0.1:3999/{iqn}/1", ExitCode.UNREACHABLE, "nothing listens"),
        (f"iscsi://10.99.99.99/{iqn}/1", ExitCode.UNREACHABLE, "no route"),
        (f"iscsi://{address}/not-a-name/1", ExitCode.USAGE, "no iSCSI target's name"),
        (f"iscsi://store.example/{iqn}/1", ExitCode.USAGE, "no address"),
        (f"iscsi://{address}/{iqn}", ExitCode.USAGE, "does not name a LUN"),
    ):
        sentence = refused(
            code, "protect", primary, "--name", "nobody", "--recovery", url, "--store", lab.store()
        )
        assert words in sentence
        assert lun_target.sessions() == {}
        assert lun_target.records() == []
        assert not list(Path("/var/lib/dmsnap/sessions").glob("*"))
    assert world(lab, primary) == before


def test_a_lun_that_is_too_small_is_let_go_again(target: LunTarget, lab: Lab) -> None:
    primary = lab.disk(LUN_SIZE)
    refused(
        ExitCode.TOO_SMALL, "protect", primary, "--name", "big", "--recovery", target.url(1),
        "--store", lab.store(),
    )  # fmt: skip
    assert lun_target.sessions() == {}
    assert lun_target.records() == []


def test_another_device_at_the_lun_is_refused(target: LunTarget, lab: Lab) -> None:
    volume = OnLun(lab, target)
    store = target.stores[1]
    before = sha256(volume.image)
    target.unmap(1)
    assert "has no LUN 1" in refused(ExitCode.NOT_FOUND, "sync", volume.name)
    other = SCRATCH / "other.img"
    target.add_lun(1, other, LUN_SIZE)
    content = sha256(other)
    for command in ("sync", "verify", "swap"):
        assert "expected naa." in refused(ExitCode.FOREIGN_DEVICE, command, volume.name)
    (status,) = dmsnap("status", volume.name, expected=ExitCode.UNHEALTHY)
    assert "another device answers" in status["problems"][0]
    assert sha256(other) == content
    assert sha256(volume.image) == before
    spare = target.stores[1]
    target.unmap(1)
    target.map(1, store)
    volume.dirty()
    volume.sync()
    volume.check_equal()
    volume.unprotect()
    target.stores.update({1: store, 2: spare})


def test_sessions_and_records_of_others_stay(target: LunTarget, lab: Lab) -> None:
    run("iscsiadm", "-m", "node", "-T", target.iqn, "-p", target.portal, "-o", "new")
    (record,) = lun_target.records()
    before = Path(record).read_text()
    run("iscsiadm", "-m", "node", "-T", target.iqn, "-p", target.portal, "--login")
    volume = OnLun(lab, target)
    volume.dirty()
    volume.sync()
    volume.check_equal()
    dmsnap("unprotect", volume.name)
    assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
    assert lun_target.records() == [record]
    assert Path(record).read_text() == before


@pytest.fixture
def second() -> Iterator[None]:
    """Another interface of open-iscsi's, as an offload card has one."""
    run("iscsiadm", "-m", "iface", "-I", SECOND, "-o", "new")
    yield
    lun_target.end_all_sessions()
    run("iscsiadm", "-m", "iface", "-I", SECOND, "-o", "delete")


def second_node(target: LunTarget, group: str, *words: str) -> None:
    node = ("-m", "node", "-T", target.iqn, "-p", f"{target.portal}{group}", "-I", SECOND)
    run("iscsiadm", *node, *words)


def content_of_records() -> dict[str, str]:
    return {path: Path(path).read_text() for path in lun_target.records()}


def interfaces() -> list[str]:
    """Those of the sessions that there are."""
    found = Path("/sys/class/iscsi_session").glob("session*/ifacename")
    return sorted(path.read_text().strip() for path in found)


@pytest.mark.usefixtures("second")
def test_records_and_sessions_of_other_interfaces_are_left_alone(
    target: LunTarget, lab: Lab
) -> None:
    second_node(target, ",1", "-o", "new")
    before = content_of_records()
    assert len(before) == 1
    volume = OnLun(lab, target)
    assert interfaces() == ["default"]
    log_out()
    volume.dirty()
    volume.sync()
    assert interfaces() == ["default"]
    second_node(target, ",1", "--login")
    volume.dirty()
    volume.sync("--audit", "full")
    volume.check_equal()
    dmsnap("unprotect", volume.name, "--forget")
    assert interfaces() == [SECOND]
    assert content_of_records() == before
    # The LUN is reached by it: neither is there a record of ours then, nor does the session end.
    volume = OnLun(lab, target)
    assert (interfaces(), content_of_records()) == ([SECOND], before)
    dmsnap("unprotect", volume.name, "--forget")
    assert (interfaces(), content_of_records()) == ([SECOND], before)


@pytest.mark.usefixtures("second")
def test_a_record_that_ours_would_take_the_place_of_is_in_the_way(
    target: LunTarget, lab: Lab
) -> None:
    """Where open-iscsi was not told the target portal group it has one file for all interfaces."""
    second_node(target, "", "-o", "new")
    before = content_of_records()
    words = ("protect", lab.disk(SIZE), "--name", "nobody", "--store", lab.store())
    sentence = refused(ExitCode.WRONG_STATE, *words, "--recovery", target.url(1))
    assert SECOND in sentence
    assert (interfaces(), content_of_records()) == ([], before)
    assert not list(Path("/var/lib/dmsnap").glob("sessions/*"))


def test_what_a_killed_protect_logged_in_to_is_let_go(target: LunTarget, lab: Lab) -> None:
    primary = lab.disk(SIZE)
    protect = ("protect", primary, "--name", "killed", "--store", lab.store(), "--recovery")
    # Before anything is recorded of the volume: the next command clears it.
    assert forked(*protect, target.url(1), at=(0, "begun"), send=(SIGKILL,)).code == -SIGKILL
    assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
    refused(ExitCode.NOT_FOUND, *protect, "/dev/none")
    assert lun_target.sessions() == {}
    assert lun_target.records() == []
    # In the middle: it is the volume's, until that is taken back.
    lab.names.append("killed")
    assert forked(*protect, target.url(1), at=(5, "begun"), send=(SIGKILL,)).code == -SIGKILL
    refused(ExitCode.NOT_FOUND, "protect", primary, "--name", "other", "--recovery", "/dev/none")
    assert lun_target.sessions() == {target.iqn: "LOGGED_IN"}
    dmsnap("unprotect", "killed")
    assert lun_target.sessions() == {}
    assert lun_target.records() == []
    plan = dmsnap(*protect, target.url(1), "--dry-run")
    assert plan["operation"] == "protect"
    assert lun_target.sessions() == {}
    assert lun_target.records() == []


def test_chap(lab: Lab) -> None:
    """The secret is nowhere but in the file and in open-iscsi's record, which root alone reads."""
    target = LunTarget("127.0.0.1:3261")
    target.create(user="joe", secret=SECRET)
    target.add_lun(1, image_of(target), LUN_SIZE)
    try:
        primary = lab.disk(SIZE)
        protect = (
            "protect", primary, "--name", "secretive", "--recovery", target.url(1),
            "--store", lab.store(),
        )  # fmt: skip
        before, content = world(lab, primary), sha256(image_of(target))
        assert "CHAP" in refused(ExitCode.NOT_PERMITTED, *protect)
        assert world(lab, primary) == before
        for secret, mode, code in (
            ("another-one-of-them", 0o600, ExitCode.NOT_PERMITTED),
            (SECRET, 0o640, ExitCode.CONFIGURATION),
        ):
            write_secrets(target, secret, mode)
            assert secret not in refused(code, *protect)
            assert lun_target.sessions() == {}
            assert lun_target.records() == []
            traced = dmsnap_process(*protect, "--debug")
            assert secret not in "".join(traced.communicate(timeout=600))
            assert traced.returncode == code
            assert lun_target.sessions() == {}
            assert lun_target.records() == []
            assert not list(Path("/var/lib/dmsnap/sessions").glob("*"))
            assert world(lab, primary) == before
        assert sha256(image_of(target)) == content
        write_secrets(target, SECRET, 0o600)
        volume = OnLun(lab, target)
        volume.check_equal()
        (record,) = lun_target.records()
        assert SECRET in Path(record).read_text()
        assert Path(record).stat().st_mode & 0o777 == 0o600
        assert SECRET.encode() not in Path("/var/lib/dmsnap/catalogue.db").read_bytes()
        log_out()
        SECRETS.unlink()
        write_secrets(target, SECRET, 0o600)
        volume.sync()
        volume.unprotect()
    finally:
        lun_target.end_all_sessions()
        target.destroy()
        SECRETS.unlink(missing_ok=True)
        image_of(target).unlink()


def write_secrets(target: LunTarget, secret: str, mode: int) -> None:
    SECRETS.parent.mkdir(exist_ok=True)
    SECRETS.write_text(f'["{target.iqn}"]\nuser = "joe"\nsecret = "{secret}"\n')
    SECRETS.chmod(mode)
