"""The volume's name, leading to the LV's own dm device while that is the front.

So the name that fstab has from ``protect`` on is there before the next boot, too, and nothing has
to say which of the two it is. The rules lie in /run: they are gone with the boot for which they
hold. Without them those in /etc would hide the LV, which is mounted; from the next boot on it is
what lies below the front, and hidden.
"""

from pathlib import Path

from dmsnap.catalogue.model import Volume
from dmsnap.host import replacement, udev
from dmsnap.host.dm import device as dm
from dmsnap.host.system_call import system_call

HEADING = (
    "# Written by dmsnap for the volume {name}, which is protected live until the next boot.\n"
)


def rules_path(volume: Volume) -> Path:
    """After the rules that know the volume's devices (64-0), before those that hide them (64-2)."""
    return udev.RUNTIME_RULES / f"64-1-dmsnap-live-{volume.name}.rules"


def rules(volume: Volume) -> str:
    """What keeps the LV shown, and gives it the volume's name."""
    assert volume.live is not None  # noqa: S101 - asked for one that is live
    words = [
        'SUBSYSTEM=="block"',
        f'ENV{{DM_UUID}}=="{udev.pattern(volume.live.uuid)}"',
        'ENV{DMSNAP_TWIN}=""',
        f'SYMLINK+="mapper/{volume.name} dmsnap/{volume.name}"',
    ]
    return HEADING.format(name=volume.name) + ", ".join(words) + "\n"


def former_rules_path(volume: Volume) -> Path:
    """Where an earlier version had them: behind all others. They go with the boot, too."""
    return udev.RUNTIME_RULES / f"91-dmsnap-live-{volume.name}.rules"


def move_former_rules(volume: Volume) -> None:
    """Before rules that know the LV are written where they are now: those would hide it."""
    former = former_rules_path(volume)
    if volume.live is not None and former.exists():
        replacement.replace_file(rules_path(volume), rules(volume))
        replacement.remove_file(former)


def show(volume: Volume) -> None:
    """Have the volume's name lead to the LV. Where no udevd runs, the link is made here."""
    assert volume.live is not None  # noqa: S101 - asked for one that is live
    replacement.replace_file(rules_path(volume), rules(volume))
    udev.reload_rules()
    udev.look_again([dm.node(volume.live.name)])
    link = dm.node(volume.name)
    if not udev.is_running() and not link.is_symlink():
        with system_call(f"make {link}"):
            link.symlink_to(volume.live.name)


def hide(volume: Volume) -> None:
    """Take the name from the LV; nothing happens when it has it not."""
    assert volume.live is not None  # noqa: S101 - asked for one that is live
    replacement.remove_file(rules_path(volume))
    replacement.remove_file(former_rules_path(volume))
    udev.reload_rules()
    node, link = dm.node(volume.live.name), dm.node(volume.name)
    if node.exists():
        udev.look_again([node])
    if not udev.is_running() and link.is_symlink():
        with system_call(f"remove {link}"):
            link.unlink()
