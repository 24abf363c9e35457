"""The harness that reboots guests: what outlives a boot and what a pulled plug loses."""

from collections.abc import Iterator

import pytest
from harness.computer import Computer, computer
from harness.errors import LabError

MIB = 1 << 20


@pytest.fixture(scope="module")
def guest() -> Iterator[Computer]:
    with computer({"one": 64 * MIB, "two": 32 * MIB}, init="minimal") as made:
        made.boot()
        yield made


def test_what_is_written_is_there_after_a_reboot(guest: Computer) -> None:
    disk = guest.device("two")
    guest.shell(f"echo kept >/etc/kept; echo disk >{disk}; echo gone >/run/gone; mkdir /mnt/kept")
    first = guest.run("cat", "/proc/sys/kernel/random/boot_id")
    guest.reboot()
    assert guest.run("cat", "/proc/sys/kernel/random/boot_id") != first
    assert guest.run("cat", "/etc/kept") == "kept\n"
    assert guest.run("head", "-c", "5", disk) == "disk\n"
    assert guest.run("blockdev", "--getsize64", guest.device("one")) == f"{64 * MIB}\n"
    guest.run("test", "-e", "/run/gone", expected=1)


def test_a_pulled_plug_loses_what_was_not_synced(guest: Computer) -> None:
    # Nothing is written back because it is old: the host may be busy before it pulls the plug.
    guest.shell("echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
    guest.shell("echo safe >/etc/safe; sync /etc/safe; echo more >/etc/more")
    guest.pull_plug()
    guest.boot()
    assert guest.run("cat", "/etc/safe") == "safe\n"
    guest.run("test", "-s", "/etc/more", expected=1)
    guest.dies("open('/etc/most', 'w').write('most'); pull_plug()")
    guest.boot()
    guest.run("test", "-s", "/etc/most", expected=1)


def test_programs_code_and_dmsnap_answer(guest: Computer) -> None:
    assert guest.run("printf", "%s|", "a b", "$HOME", "ü", "\n") == "a b|$HOME|ü|\n|"
    assert guest.python("import os; print(os.getppid() > 0)") == "True\n"
    assert len(guest.shell("head -c 1000000 /dev/zero | tr '\\0' x")) == 1_000_000
    guest.python("raise SystemExit(7)", expected=7)
    guest.python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", expected=-9)
    assert guest.dmsnap("status") == []
    assert "no protected volume" in guest.dmsnap("status", "nothing", expected=4)["error"]
    with pytest.raises(AssertionError, match="expected 0\n\nah"):
        guest.shell("echo ah >&2; false; echo never")


def test_a_guest_that_lives_on_or_is_off_is_an_error(guest: Computer) -> None:
    with pytest.raises(LabError, match="lives on"):
        guest.dies("print('still here')", timeout=3)
    guest.pull_plug()
    with pytest.raises(LabError, match="switched off"):
        guest.run("true")
    guest.boot()
    with pytest.raises(LabError, match="did not answer"):
        guest.run("sleep", "600", timeout=1)
    guest.boot()


@pytest.fixture
def early_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy guest has most of the time that a request may take for its report."""
    monkeypatch.setattr("harness.computer.REPORT_SHARE", 0.1)


@pytest.mark.usefixtures("early_reports")
def test_a_guest_that_does_not_answer_says_what_it_waits_for(guest: Computer) -> None:
    with pytest.raises(LabError, match=r"\d+ S sleep 600 \n"):
        guest.run("sleep", 600, timeout=20)
    guest.boot()


@pytest.mark.usefixtures("early_reports")
def test_who_takes_too_long_is_asked_where_it_is(guest: Computer) -> None:
    guest.python("")  # what is imported once takes seconds
    with pytest.raises(LabError, match=r" in waiting\n"):
        guest.python("import time\ndef waiting(): time.sleep(600)\nwaiting()", timeout=20)
