"""The unit that publishes exports again at boot: wanted while there are any."""

from pathlib import Path

from dmsnap.catalogue import export as recorded
from dmsnap.host import replacement, systemd
from dmsnap.service.session import Session

UNIT = "dmsnap-exports.service"
TARGET = "multi-user.target"
TEXT = f"""# Written by dmsnap while it exports LUNs; dmsnap unexport of the last one takes it away.
[Unit]
Wants={UNIT}
"""


def wish_path() -> Path:
    """The drop-in of the target that pulls the unit in."""
    return systemd.UNITS / f"{TARGET}.d" / "dmsnap-exports.conf"


def settle(session: Session) -> None:
    """Have the unit wanted exactly while something is exported."""
    path = wish_path()
    wanted = any(export.complete for export in recorded.exports(session.catalogue))
    if wanted is path.exists():
        return
    if wanted:
        replacement.replace_file(path, TEXT)
    else:
        replacement.remove_file(path)
        replacement.remove_empty_directory(path.parent)
    systemd.reload()
