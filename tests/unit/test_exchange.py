"""Tables that are exchanged under users: whatever comes in between, nothing stays half done."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from dmsnap._native import window
from dmsnap._native.window import Instead, WindowStep, WindowTimes
from dmsnap.errors import DeadlineError, InterruptedBySignal, OperatingSystemError
from dmsnap.host.dm import device as dm
from dmsnap.host.dm import failing
from dmsnap.host.dm.device import DmInfo
from dmsnap.host.dm.target import Era, Error, Linear, Table, single
from dmsnap.host.signals import interruptible
from dmsnap.host.sysfs import Sysfs
from dmsnap.snapshot import exchange as exchanging
from dmsnap.snapshot.exchange import exchange, led_to
from dmsnap.units import MIB

OLD, NEW = single(MIB, Linear(1, 0)), single(MIB, Linear(2, 0))
OLD_ERA, NEW_ERA = single(MIB, Era(7, 1, 65536)), single(MIB, Era(8, 2, 65536))
ERRORS = single(MIB, Error())
STATE = DmInfo("srv", "DMSNAP-x-front", 1, 0, False, True, False, False, 0)


class Device:
    """A dm device as the kernel keeps it. A call named in ``interrupted`` is done, and then the
    signal that came meanwhile raises, as after any system call.
    """

    def __init__(self) -> None:
        self.live: Table = OLD
        self.inactive: Table | None = None
        self.suspended = False
        self.interrupted: str | None = None
        # Tables of dm-era whose metadata cannot be written, or not even read.
        self.refused: list[Table] = []
        self.unreadable: list[Table] = []
        # What its watchdog has it lead to before the next table is loaded.
        self.rescued_with: Table | None = None
        self.window_left = ""

    @property
    def state(self) -> DmInfo:
        return replace(STATE, suspended=self.suspended, inactive_table=self.inactive is not None)

    def load(self, _name: str, table: Table, *, read_only: bool = False) -> None:
        assert not read_only
        if self.rescued_with is not None and self.suspended:
            self.live, self.inactive, self.suspended = self.rescued_with, None, False
        if table in self.unreadable:
            raise OperatingSystemError("cannot be loaded", errnum=5)
        self.inactive = table
        self._done("load")

    def clear(self, _name: str) -> None:
        self.inactive = None
        self._done("clear")

    def suspend(self, _name: str, *, flush: bool = True, freeze: bool = True) -> None:
        assert not flush
        assert not freeze
        self.suspended = True
        self._done("suspend")

    def resume(self, _name: str, **_how: object) -> None:
        self.live, self.inactive = self.inactive or self.live, None
        if self.live in self.refused:
            raise OperatingSystemError("cannot be resumed", errnum=5)
        self.suspended = False
        self._done("resume")

    def window(
        self,
        steps: list[WindowStep],
        _deadline_ms: int,
        *,
        put_back: Callable[[], None],
        **_files: object,
    ) -> WindowTimes:
        self.suspended = True
        try:
            self.resume("srv")
        except OperatingSystemError:
            put_back()
            self.window_left = "suspended" if self.suspended else "resumed"
            raise
        return WindowTimes(0.0, 0.0, 0, tuple(steps))

    def _done(self, call: str) -> None:
        if call == self.interrupted:
            self.interrupted = None
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    found = Device()
    for module in (dm, failing):
        for call in ("load", "clear", "suspend", "resume"):
            monkeypatch.setattr(module, call, getattr(found, call))
        monkeypatch.setattr(module, "existing", lambda _name: found.state)
        monkeypatch.setattr(module, "table", lambda _name: found.live)
    monkeypatch.setattr(dm, "live_table", lambda _name: found.live)
    monkeypatch.setattr(exchanging, "mounts_of", lambda _devno: [])
    monkeypatch.setattr(window, "run", found.window)
    with interruptible():
        yield found


def test_the_new_table_is_live_afterwards(device: Device) -> None:
    exchange(STATE, NEW, 1000, settled=False)
    assert (device.live, device.inactive, device.suspended) == (NEW, None, False)


def test_a_signal_while_the_table_is_loaded_leaves_none_loaded(device: Device) -> None:
    """The next resume, that of a point, would make it live under who has the old one mounted."""
    device.interrupted = "load"
    with pytest.raises(InterruptedBySignal):
        exchange(STATE, NEW, 1000, settled=False)
    assert (device.live, device.inactive, device.suspended) == (OLD, None, False)


def test_a_new_table_that_refuses_leaves_the_old_one(device: Device) -> None:
    device.refused = [NEW_ERA]
    with pytest.raises(OperatingSystemError):
        exchange(STATE, NEW_ERA, 1000, settled=False)
    assert (device.live, device.inactive, device.suspended) == (OLD, None, False)
    assert device.window_left == "resumed"  # with its watchdog beside it


def test_a_watchdog_that_was_faster_is_not_overtaken(device: Device) -> None:
    """What was written behind it has no mark in the old dm-era, which must not be put back."""
    device.live, device.refused, device.rescued_with = OLD_ERA, [NEW_ERA], OLD
    device.load("srv", NEW_ERA)
    device.suspended = True
    with pytest.raises(OperatingSystemError):
        device.resume("srv")
    dm.go_on_with("srv", OLD_ERA)
    assert (device.live, device.inactive, device.suspended) == (OLD, None, False)


def test_a_watchdog_that_was_faster_than_leading_past_dm_era_is_not_overtaken(
    device: Device,
) -> None:
    device.live, device.refused, device.rescued_with = OLD_ERA, [OLD_ERA], NEW
    device.suspended = True
    assert not dm.resume_past_era("srv")
    assert (device.live, device.inactive, device.suspended) == (NEW, None, False)


def test_where_a_table_leads_past_dm_era() -> None:
    """What a watchdog can load by itself: one linear target, from wherever it begins."""
    assert led_to(OLD_ERA) == led_to(OLD) == Instead(MIB, 1, 0)
    assert led_to(single(MIB, Linear(3, 2 * MIB))) == Instead(MIB, 3, 2 * MIB)
    assert led_to(ERRORS) is None
    assert led_to(()) is None
    assert led_to((*OLD, replace(NEW[0], start_bytes=MIB))) is None


@pytest.mark.parametrize("what", ["refused", "unreadable"])
def test_a_dm_era_that_refuses_as_well_is_passed_by(device: Device, what: str) -> None:
    """The front leads to what it led to; it is not left suspended."""
    device.live, device.refused = OLD_ERA, [NEW_ERA]
    getattr(device, what).append(OLD_ERA)
    with pytest.raises(OperatingSystemError):
        exchange(STATE, NEW_ERA, 1000, settled=False)
    assert (device.live, device.inactive, device.suspended) == (OLD, None, False)


@pytest.mark.parametrize("call", ["load", "suspend", "resume"])
def test_a_signal_while_a_device_is_failed_leaves_it_with_one_table(
    device: Device, call: str
) -> None:
    """It is not suspended, and no errors wait for the next resume."""
    device.interrupted = call
    with pytest.raises(InterruptedBySignal):
        failing.fail("srv", 1.0)
    assert (device.inactive, device.suspended) == (None, False)
    assert device.live == (ERRORS if call == "resume" else OLD)


def test_what_does_not_come_back_leaves_the_device_as_it_was(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_name: str, **_how: object) -> None:
        raise OperatingSystemError("interrupted", errnum=4)

    monkeypatch.setattr(failing, "suspend", interrupted)
    monkeypatch.setattr(Sysfs, "in_flight", lambda *_: 3)
    with pytest.raises(DeadlineError):
        failing.fail("srv", 1.0)
    assert (device.live, device.inactive, device.suspended) == (OLD, None, False)


@pytest.mark.parametrize("call", ["load", "resume", "suspend"])
def test_a_device_of_others_that_is_failed_for_a_while_is_theirs_again(
    device: Device, call: str
) -> None:
    """Suspended as its owner left it; their next resume makes their own table live."""
    device.suspended = True
    device.interrupted = call
    with pytest.raises(InterruptedBySignal), failing.failing("srv"):
        assert (device.live, device.inactive) == (ERRORS, OLD)  # also for who is killed here
    assert device.suspended
    assert (device.inactive or device.live) == OLD
