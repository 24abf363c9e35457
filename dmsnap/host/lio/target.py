"""Publishing block devices by iSCSI: backstores, targets, portals, ACLs and LUNs. Root.

Over rtslib-fb. Only what carries our mark is changed or removed: backstores whose names begin with
``dmsnap-``, targets whose names begin with our IQN prefix. Each function makes or removes what is
missing of it, and can be repeated.

What rtslib would do by itself is done here first. Its command to mount configfs names a variable
that it never fills in; it makes LIO keep reservations in /etc/target, which must exist before the
first backstore does; and it takes a write protection that failed for one that was not asked for.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmsnap.errors import BusyError, ForeignDeviceError, OperatingSystemError
from dmsnap.host.blockdev import BlockDevice, describe_users
from dmsnap.host.lio import state
from dmsnap.host.locks import directory_lock
from dmsnap.host.run import run
from dmsnap.host.system_call import system_call

RESERVATIONS = Path("/etc/target")
PORTAL_GROUP = 1


def prepare() -> None:
    """Have LIO in the kernel, and its objects in configfs."""
    if not state.CONFIGFS.is_mount():
        run("modprobe", "--", "configfs")
        run("mount", "-t", "configfs", "configfs", str(state.CONFIGFS))
    run("modprobe", "--all", "--", *state.MODULES)
    with system_call(f"make the directory {RESERVATIONS}"):
        RESERVATIONS.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lio("set up LIO") as rtslib:
        rtslib.RTSRoot()


# backstores


def create_backstore(name: str, device: BlockDevice, serial: str, *, read_only: bool) -> None:
    """A backstore over ``device``, known to initiators by ``serial`` (and the WWN made of it)."""
    require_ours(name, state.BACKSTORE_PREFIX)
    existing = state.find_backstore(name)
    if existing is not None and existing.devno is None:
        remove_backstore(name)  # one that was cut off while it was made
    elif existing is not None:
        _require_as_wanted(existing, device, serial, read_only=read_only)
        return
    users = describe_users(device)
    if users:
        raise BusyError(f"{device.path} cannot be exported, it is in use: {users}")
    # Its number among LIO's others is chosen by looking which are free.
    with directory_lock(RESERVATIONS), _lio(f"publish {device.path}") as rtslib:
        rtslib.BlockStorageObject(name, dev=str(device.path), wwn=serial, readonly=read_only)
    made = state.find_backstore(name)
    if made is None or made.devno != device.devno or made.serial != serial:
        remove_backstore(name)
        raise OperatingSystemError(f"LIO did not publish {device.path} as it should: {made}")


def _require_as_wanted(
    existing: state.Backstore, device: BlockDevice, serial: str, *, read_only: bool
) -> None:
    if (existing.devno, existing.serial, existing.read_only) != (device.devno, serial, read_only):
        raise ForeignDeviceError(
            f"LIO's backstore {existing.name} is another than that of {device.path}",
            hint="unexport it, and export it again",
        )


def remove_backstore(name: str) -> None:
    """Remove a backstore of ours; nothing happens when it is not there."""
    require_ours(name, state.BACKSTORE_PREFIX)
    if state.find_backstore(name) is not None:
        with _lio(f"remove the backstore {name}") as rtslib:
            rtslib.BlockStorageObject(name).delete()


# targets


def create_target(iqn: str, initiators: Sequence[str]) -> None:
    """A target with one portal group, which nobody can reach yet, and who may log in."""
    with _lio(f"make the target {iqn}") as rtslib:
        group = rtslib.TPG(_target(rtslib, iqn, "any"), PORTAL_GROUP)
        # By default LIO asks for CHAP, and lets nobody in for whom it has no secret.
        group.set_attribute("authentication", "0")
        for initiator in initiators:
            rtslib.NodeACL(group, initiator)


def remove_target(iqn: str) -> None:
    """Remove a target of ours and all it has, whoever is logged in."""
    require_ours(iqn, state.IQN_PREFIX)
    if state.has_target(iqn):
        with _lio(f"remove the target {iqn}") as rtslib:
            _target(rtslib, iqn, "lookup").delete()


def add_portal(iqn: str, address: str, port: int) -> None:
    """Listen for initiators."""
    host = f"[{address}]" if ":" in address else address
    with _lio(f"listen at {host}:{port}") as rtslib:
        rtslib.NetworkPortal(_group(rtslib, iqn), host, port)


def enable(iqn: str) -> None:
    """From here on initiators can log in."""
    with _lio(f"enable the target {iqn}") as rtslib:
        _group(rtslib, iqn).enable = True


def disable(iqn: str) -> None:
    """End all sessions and take no new ones; nothing happens where there is no target."""
    if state.is_enabled(iqn):
        with _lio(f"disable the target {iqn}") as rtslib:
            _group(rtslib, iqn).enable = False


# LUNs


def map_lun(iqn: str, lun: int, backstore: str, *, read_only: bool) -> None:
    """Show a backstore as LUN ``lun`` to everybody who may log in."""
    if state.backstore_of_lun(iqn, lun) not in (None, backstore):
        unmap_lun(iqn, lun)
    with _lio(f"map LUN {lun} of {iqn}") as rtslib:
        group = _group(rtslib, iqn)
        if state.backstore_of_lun(iqn, lun) is None:
            _remove_lun(group, lun)
            rtslib.LUN(group, lun, rtslib.BlockStorageObject(backstore))
        for acl in group.node_acls:
            if not any(mapped.mapped_lun == lun for mapped in acl.mapped_luns):
                rtslib.MappedLUN(acl, lun, lun, write_protect=read_only)
    if state.is_write_protected(iqn, lun) is not read_only:
        unmap_lun(iqn, lun)
        raise OperatingSystemError(f"LIO does not write-protect LUN {lun} of {iqn}")


def unmap_lun(iqn: str, lun: int) -> None:
    """Take a LUN away; LIO waits for the commands that are under way."""
    if state.has_target(iqn):
        with _lio(f"unmap LUN {lun} of {iqn}") as rtslib:
            _remove_lun(_group(rtslib, iqn), lun)


def _remove_lun(group: Any, lun: int) -> None:
    """With the mappings that point nowhere: a LUN that was cut off while it was made."""
    for acl in group.node_acls:
        for mapped in acl.mapped_luns:
            if mapped.mapped_lun == lun:
                mapped.delete()
    for found in group.luns:
        if found.lun == lun:
            found.delete()


def _group(rtslib: Any, iqn: str) -> Any:
    return rtslib.TPG(_target(rtslib, iqn, "lookup"), PORTAL_GROUP, "lookup")


def _target(rtslib: Any, iqn: str, mode: str) -> Any:
    require_ours(iqn, state.IQN_PREFIX)
    return rtslib.Target(rtslib.FabricModule("iscsi"), iqn, mode)


def require_ours(name: str, prefix: str) -> None:
    if not name.startswith(prefix):
        raise ForeignDeviceError(f"{name} is not dmsnap's: it does not begin with {prefix}")


@contextmanager
def _lio(action: str) -> Iterator[Any]:
    """rtslib: what it raises becomes an error of ours, its warnings are kept off the terminal."""
    # Imported where it is needed: every command clears up exports, and hardly any has some.
    import rtslib_fb as rtslib
    from rtslib_fb.tcm import bs_cache

    # What it knows of backstores is a moment old; others make and remove them, too.
    bs_cache.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield rtslib
    except (rtslib.RTSLibError, OSError) as error:
        raise OperatingSystemError(f"cannot {action}: {error}") from error
