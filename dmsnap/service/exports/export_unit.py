"""The unit that publishes exports again at boot: wanted while there are any."""

from pathlib import Path

from dmsnap.catalogue import export as recorded
from dmsnap.host import replacement, systemd
from dmsnap.host.locks import moment_lock
from dmsnap.host.system_call import system_call
from dmsnap.service.session import Session

UNIT = "dmsnap-exports.service"
LOCK_SECONDS = 10.0
TARGET = "multi-user.target"
TEXT = f"""# Written by dmsnap while it exports LUNs; dmsnap unexport of the last one takes it away.
[Unit]
Wants={UNIT}
"""


def wish_path() -> Path:
    """The drop-in of the target that pulls the unit in."""
    return systemd.UNITS / f"{TARGET}.d" / "dmsnap-exports.conf"


def settle(session: Session) -> None:
    """Have the unit wanted exactly while something is exported.

    Another command may export or unexport at the same time: what is decided under the lock is
    decided by what is recorded then.
    """
    if _is_wanted(session) is wish_path().exists():
        return
    with system_call(f"make {systemd.UNITS}"):
        systemd.UNITS.mkdir(parents=True, exist_ok=True)
    with moment_lock(systemd.UNITS, LOCK_SECONDS):
        _settle(wish_path(), wanted=_is_wanted(session))
    systemd.reload()


def _is_wanted(session: Session) -> bool:
    return any(export.complete for export in recorded.exports(session.catalogue))


def _settle(path: Path, *, wanted: bool) -> None:
    if wanted:
        replacement.replace_unless_masked(path, TEXT)
    else:
        replacement.remove_file(path)
        replacement.remove_empty_directory(path.parent)
