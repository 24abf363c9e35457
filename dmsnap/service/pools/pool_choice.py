"""Taking a recovery volume out of a pool: the one that is chosen, and why others were passed over.

Who chooses holds a lock of all pools until the catalogue says who has the device, so that two
commands never choose the same one; a command that was given a device by name holds that device's.
"""

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dmsnap._native import label
from dmsnap.errors import BusyError, DmsnapError
from dmsnap.host import iscsi_session, lun, signature
from dmsnap.host.blockdev import BlockDevice
from dmsnap.host.lun import LunName
from dmsnap.host.signature import Signature
from dmsnap.policy import pool as choosing
from dmsnap.policy.pool import OfferedVolume
from dmsnap.recovery import history
from dmsnap.service.luns import luns
from dmsnap.service.pools import pool
from dmsnap.service.pools.pool import PoolDevice, Standing
from dmsnap.service.session import Session
from dmsnap.service.volumes import admission
from dmsnap.service.volumes.admission import ProtectRequest
from dmsnap.units import format_size

if TYPE_CHECKING:
    from dmsnap.service.configuration.declaration import Pool

log = logging.getLogger(__name__)

# No volume's name has a colon.
LOCK = "pool:choice"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A device of the pool that was not taken, and why; ``reason`` is a part of a sentence."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The request with the device that is taken; ``asked`` is what it named before, if anything.

    Others cannot choose before :meth:`settle`.
    """

    request: ProtectRequest
    asked: str
    passed_over: tuple[PassedOver, ...] = ()
    _lock: ExitStack = field(default_factory=ExitStack)

    def settle(self) -> None:
        """Let others choose: who has the device is recorded."""
        self._lock.close()


@contextmanager
def chosen(session: Session, request: ProtectRequest) -> Iterator[Choice]:
    """Choose from the pool that a request names; without one the request is as it was.

    ``NotFoundError`` or ``TooSmallError`` when none will do, with every reason in its notes.
    LUNs of the pool are logged in to for that; those that are not taken are let go.
    """
    wanted = request.wanted
    if not wanted.pool:
        yield Choice(request, wanted.recovery)
        return
    offered = pool.declared_pool(pool.declared_pools(), wanted.pool)
    with ExitStack() as lock:
        lock.enter_context(session.locked([LOCK]))
        with _attached(session, request, offered.volumes):
            found, passed_over = _choose(session, request, offered)
        yield Choice(request.onto(found), wanted.recovery, passed_over, lock)


@contextmanager
def _attached(session: Session, request: ProtectRequest, names: Sequence[str]) -> Iterator[None]:
    """Have the pool's LUNs there to be looked at: what does not answer is found missing then."""
    wanted = [LunName.parse(name) for name in names if lun.is_name(name)]
    unseen = [name for name in wanted if not iscsi_session.find(name.portal, name.target)]
    try:
        for name in wanted:
            try:
                luns.attach(session, name, request.name)
            except DmsnapError as error:
                log.debug("%s cannot be looked at: %s", name, error)
        yield
    finally:
        for name in unseen:
            try:
                luns.release(session, name)
            except DmsnapError as error:
                log.warning("%s is not let go: %s", name, error)


def _choose(
    session: Session, request: ProtectRequest, offered: "Pool"
) -> tuple[str, tuple[PassedOver, ...]]:
    asking = _Asking(session, request)
    for device in pool.survey(session, request.wanted.pool, offered.volumes):
        asking.sort(device)
    try:
        found = asking.earlier or asking.choose(offered)
    except DmsnapError as error:
        for each in asking.passed_over:
            error.add_note(f"{each.device}: {each.reason}")
        raise
    return found, tuple(asking.passed_over)


@dataclass(slots=True)
class _Asking:
    """A choice that is being made. ``earlier``: what served the same volume before."""

    session: Session
    request: ProtectRequest
    backing: BlockDevice = field(init=False)
    content: Signature | None = field(init=False)
    needed_bytes: int = field(init=False)
    free: list[OfferedVolume] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    earlier: str | None = None

    def __post_init__(self) -> None:
        self.backing = BlockDevice.probe(self.request.device)
        self.content = signature.probe(self.backing.path)
        self.needed_bytes = history.needed_device_bytes(self.backing.size_bytes, label.AREA_BYTES)

    def sort(self, device: PoolDevice) -> None:
        """Whether a device can be chosen at all."""
        if device.state is Standing.FREE and device.size_bytes is not None:
            self.free.append(OfferedVolume(device.device, device.size_bytes))
        elif self._served_before(device):
            self.earlier = device.device
        else:
            self.pass_over(device.device, describe(device))

    def _served_before(self, device: PoolDevice) -> bool:
        """Its points are this volume's, and go on; what it served is not protected any more."""
        is_wanted = self.request.wanted.recovery in ("", device.device)
        if device.volume != self.request.name or self.earlier or not is_wanted:
            return False
        try:
            return self._check(device.device) is not None
        except DmsnapError:
            return False

    def choose(self, offered: "Pool") -> str:
        """By name, or as the pool says, until one passes every check."""
        while True:
            found = self._next(offered)
            try:
                self._check(found.name)
            except DmsnapError as error:
                if self.request.wanted.recovery:
                    raise
                self.pass_over(found.name, str(error))
                self.free.remove(found)
            else:
                self._pass_over_small()
                return found.name

    def _next(self, offered: "Pool") -> OfferedVolume:
        asked, name = self.request.wanted.recovery, self.request.wanted.pool
        if asked:
            declared = next((each for each in offered.volumes if pool.is_same(each, asked)), asked)
            return choosing.named(name, self.free, declared, self.needed_bytes)
        return choosing.choose(
            name, self.free, offered.choose, self.needed_bytes, secrets.randbelow
        )

    def _check(self, name: str) -> label.Label | None:
        device = BlockDevice.probe(lun.node(name))
        locked = self.session.running(admission.device_lock(device))
        if locked is not None:
            raise BusyError(f"{device.path} is being looked at by {locked}")
        request = self.request.onto(pool.recorded_as(name))
        return admission.check_device(self.session, request, self.backing, device, self.content)

    def _pass_over_small(self) -> None:
        for each in self.free:
            if each.capacity_bytes < self.needed_bytes:
                has, needs = format_size(each.capacity_bytes), format_size(self.needed_bytes)
                self.pass_over(each.name, f"has {has}, {needs} are needed")

    def pass_over(self, device: str, reason: str) -> None:
        self.passed_over.append(PassedOver(device, reason))


def describe(device: PoolDevice) -> str:
    """Why a device is not free, as a part of a sentence."""
    if device.state is Standing.UNUSABLE:
        return device.reason or ""
    of = f" by {device.volume}" if device.volume else ""
    return f"{device.state}{of}" + (f": {device.reason}" if device.reason else "")
