"""open-iscsi: node records, login and logout, by way of iscsiadm (iscsiadm(8)). Root.

A record is what open-iscsi knows of a target at a portal, for one interface. Those of others, as of
an offload card, are none of our business: nothing here logs in by one, changes or removes it.
Secrets are written into a record's file, which root alone can read, and never to a command line,
which everybody can.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsnap.errors import (
    DmsnapError,
    NotFoundError,
    NotPermittedError,
    ProgramError,
    UnreachableError,
    WrongStateError,
)
from dmsnap.host import capability, replacement
from dmsnap.host.iscsi_session import INTERFACE
from dmsnap.host.portal import Portal
from dmsnap.host.run import run
from dmsnap.host.system_call import system_call
from dmsnap.secret import Secret

# Debian's place, and the one of open-iscsi 2.1.10 and later.
DATABASES = (Path("/etc/iscsi/nodes"), Path("/var/lib/iscsi/nodes"))
INITIATOR = Path("/etc/iscsi/initiatorname.iscsi")


MODULES = ("sd_mod", "iscsi_tcp")

LOGIN_SECONDS = 90.0
DISCOVERY_SECONDS = 30.0

# iscsiadm(8), "EXIT STATUS"
SESSION_EXISTS = 15
NO_OBJECTS_FOUND = 21
NO_DAEMON = 20
AUTHORISATION = 24
NOT_REACHED = (4, 5, 8, 11, 12)


@dataclass(frozen=True, slots=True)
class Chap:
    """What the initiator proves itself by, and, where there is one, the target to it."""

    user: str
    secret: Secret
    target_user: str = ""
    target_secret: Secret | None = None


def initiator_name() -> str:
    """This host's name as an initiator."""
    try:
        text = INITIATOR.read_text()
    except OSError:
        return "unknown"
    found = re.search(r"^\s*InitiatorName\s*=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else "unknown"


# records


def record_files(
    portal: Portal, target: str, *, databases: tuple[Path, ...] = DATABASES
) -> list[Path]:
    """The files of the record for the interface that is ours to use: one, or none."""
    return [path for path in _files(portal, target, databases) if _interface_of(path) == INTERFACE]


def _files(portal: Portal, target: str, databases: tuple[Path, ...]) -> list[Path]:
    """One for each interface, in a directory; one for all, where the TPG is not known."""
    found: list[Path] = []
    for database in databases:
        for entry in sorted((database / target).glob(f"{portal.address},{portal.port}*")):
            if entry.name.split(",")[1] == str(portal.port):
                # Hidden is what somebody left who was killed over a record.
                found += sorted(entry.glob("[!.]*")) if entry.is_dir() else [entry]
    return found


def _is_for_all(path: Path) -> bool:
    return "," in path.name


def _interface_of(path: Path) -> str:
    if not _is_for_all(path):
        return path.name
    with system_call(f"read {path}"):
        found = re.search(r"^iface\.iscsi_ifacename\s*=\s*(\S+)", path.read_text(), re.MULTILINE)
    return found[1] if found else INTERFACE


def require_free(portal: Portal, target: str, *, databases: tuple[Path, ...] = DATABASES) -> None:
    """Raise :class:`WrongStateError` where a new record would replace that of another interface."""
    others = _files(portal, target, databases)
    in_the_way = next((path for path in others if _is_for_all(path)), None)
    if in_the_way is not None:
        interface = _interface_of(in_the_way)
        raise WrongStateError(
            f"open-iscsi has a record of {target} at {portal} for the interface {interface}, which "
            f"it would replace by one of dmsnap's own: {in_the_way}",
            hint=f"log in by it, or have the target discovered: iscsiadm --mode=discovery "
            f"--type=sendtargets --portal={portal} --interface={interface}",
        )


def create_record(portal: Portal, target: str, group: int | None) -> None:
    """Have open-iscsi know the target, as its configuration says of new ones.

    ``group`` is the tag of the target's portal group: with it, records of other interfaces are
    beside this one, and stay.
    """
    where = f"{portal}" if group is None else f"{portal},{group}"
    words = (f"--targetname={target}", f"--portal={where}", f"--interface={INTERFACE}")
    run("iscsiadm", "--mode=node", *words, "--op=new")


def configure_record(portal: Portal, target: str, values: Mapping[str, str | Secret]) -> None:
    """Set values of a record that is dmsnap's own: ``node.session.timeo.replacement_timeout``."""
    for path in record_files(portal, target):
        with system_call(f"read {path}"):
            text = path.read_text()
        new = with_values(text, values)
        if new != text:
            replacement.replace_file(path, new)


def with_values(text: str, values: Mapping[str, str | Secret]) -> str:
    """A record's text with other values; what it does not have yet comes before its end."""
    kept = [
        line
        for line in text.splitlines()
        if line.partition("=")[0].strip() not in values and not line.startswith("# END")
    ]
    new = [
        f"{name} = {value.reveal() if isinstance(value, Secret) else value}"
        for name, value in values.items()
    ]
    return "\n".join([*kept, *new, "# END RECORD"]) + "\n"


def chap_values(chap: Chap | None) -> dict[str, str | Secret]:
    """The values of a record by which a login proves itself."""
    if chap is None:
        return {"node.session.auth.authmethod": "None"}
    values: dict[str, str | Secret] = {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": chap.user,
        "node.session.auth.password": chap.secret,
    }
    if chap.target_secret is not None:
        values["node.session.auth.username_in"] = chap.target_user
        values["node.session.auth.password_in"] = chap.target_secret
    return values


def delete_record(portal: Portal, target: str) -> None:
    """Have open-iscsi forget the target; none is no error."""
    if record_files(portal, target):
        run("iscsiadm", *_node(portal, target), "--op=delete", expected=(0, NO_OBJECTS_FOUND))


# sessions


def load_modules() -> None:
    """Without udev nobody else loads them: SCSI disks have no node then."""
    for module in MODULES:
        if capability.has_module(module):
            run("modprobe", module)


def require_offered(portal: Portal, target: str) -> int | None:
    """Raise :class:`NotFoundError` when the portal lists its targets, and this one is not there.

    A login to it would be tried for as long as one to a target that does not answer. A portal that
    does not list them (it may want a login for that alone) is left to the login. Returns the tag of
    the portal's group, where that is known.
    """
    completed = run(
        "iscsiadm", "--mode=discovery", "--type=sendtargets", f"--portal={portal}",
        f"--interface={INTERFACE}", "--op=nonpersistent",
        timeout_seconds=DISCOVERY_SECONDS, expected=range(256),
    )  # fmt: skip
    _require_daemon(completed.returncode)
    lines = [line.split() for line in completed.text.splitlines() if line.split()]
    offered = {words[-1] for words in lines}
    if completed.returncode in (0, NO_OBJECTS_FOUND) and target not in offered:
        raise NotFoundError(
            f"{portal} offers no target {target} to this initiator ({initiator_name()})",
            offered=sorted(offered),
        )
    return group_in(lines, portal, target)


def group_in(lines: Sequence[Sequence[str]], portal: Portal, target: str) -> int | None:
    """The portal group's tag in what a portal lists: ``ADDRESS:PORT,TAG TARGET``."""
    for where, *rest in lines:
        address, _, tag = where.rpartition(",")
        if rest[-1:] == [target] and address == str(portal) and tag.isdigit():
            return int(tag)
    return None


def login(portal: Portal, target: str) -> None:
    """Log in by the record that there is; a session that exists is no error.

    Raises ``NotPermittedError`` when the target refuses, ``UnreachableError`` when it does not
    answer, ``ProgramError``.
    """
    completed = run(
        "iscsiadm", *_node(portal, target), "--login",
        timeout_seconds=LOGIN_SECONDS, expected=range(256),
    )  # fmt: skip
    code = completed.returncode
    if code in (0, SESSION_EXISTS):
        return
    _require_daemon(code)
    if code == AUTHORISATION:
        raise NotPermittedError(
            f"{target} at {portal} refuses the login of {initiator_name()}: the CHAP user or "
            f"secret is wrong or missing, or the target does not admit this initiator",
        )
    if code in NOT_REACHED:
        raise UnreachableError(f"{target} at {portal} does not answer", portal=str(portal))
    lines = completed.stderr.decode(errors="replace").splitlines()
    reason = next((line for line in lines if "error" in line), "it wrote no reason")
    raise ProgramError(f"the login to {target} at {portal} failed: {reason}", returncode=code)


def logout(number: int) -> None:
    """End the session with this number; one that is gone is no error. Its disks go with it."""
    run(
        "iscsiadm", "--mode=session", f"--sid={number}", "--logout",
        timeout_seconds=LOGIN_SECONDS, expected=(0, NO_OBJECTS_FOUND),
    )  # fmt: skip


def _node(portal: Portal, target: str) -> list[str]:
    words = (f"--targetname={target}", f"--portal={portal}", f"--interface={INTERFACE}")
    return ["--mode=node", *words]


def _require_daemon(code: int) -> None:
    if code == NO_DAEMON:
        raise NoDaemonError


class NoDaemonError(DmsnapError):
    """iscsid does not run, and could not be started."""

    exit_code = ProgramError.exit_code

    def __init__(self) -> None:
        super().__init__(
            "iscsid does not run: iscsiadm cannot reach it",
            hint="start it with: systemctl start iscsid",
        )
