"""multipathd of multipath-tools, which runs where a scenario starts it, and the maps it makes."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import run
from patience import until

CONFIGURATION = Path("/etc/multipath.conf")
# What it remembers of the LUNs that it has made maps of.
REMEMBERED = (Path("/etc/multipath/wwids"), Path("/etc/multipath/bindings"))
# It finds LIO's disks by ALUA; user-mode-linux has none of the kernel's handlers of hardware.
SETTINGS = """\
defaults {{
    find_multipaths {found}
    user_friendly_names yes
    polling_interval 1
    max_polling_interval 1
    fast_io_fail_tmo 1
}}
devices {{
    device {{
        vendor "LIO-ORG"
        product ".*"
        path_grouping_policy multibus
        path_checker tur
        prio const
        detect_prio no
        hardware_handler "0"
        no_path_retry fail
    }}
}}
"""


@contextmanager
def running(found: str) -> Iterator[None]:
    """multipathd; ``found`` is what it makes maps of, its find_multipaths: of LUNs that have two
    paths (``yes``), or of all (``greedy``).
    """
    run("modprobe", "-a", "dm-multipath", "dm-service-time", "dm-round-robin")
    CONFIGURATION.write_text(SETTINGS.format(found=found))
    run("systemctl", "start", "multipathd.service")
    try:
        yield
    finally:
        run("multipath", "-F", expected=None)
        run("systemctl", "stop", "multipathd.socket", "multipathd.service")
        for path in (CONFIGURATION, *REMEMBERED):
            path.unlink(missing_ok=True)


def maps() -> dict[str, list[str]]:
    """The kernel names of the paths of each map."""
    found = {}
    for device in Path("/sys/block").glob("dm-*"):
        with contextlib.suppress(OSError):  # it is being removed
            if (device / "dm/uuid").read_text().startswith("mpath-"):
                slaves = sorted(path.name for path in (device / "slaves").iterdir())
                found[(device / "dm/name").read_text().strip()] = slaves
    return found


def partitions() -> list[str]:
    """The UUIDs of what kpartx has made of maps."""
    uuids = [path.read_text().strip() for path in Path("/sys/block").glob("dm-*/dm/uuid")]
    return [uuid for uuid in uuids if uuid.startswith("part")]


def map_of(paths: int) -> str:
    """The node of the one map, as soon as it has so many paths, and udev has its links."""
    until(
        lambda: [len(found) for found in maps().values()] == [paths],
        f"there is a map of {paths} paths",
    )
    run("udevadm", "settle")
    (name,) = maps()
    return f"/dev/mapper/{name}"


def states(name: str) -> list[str]:
    """What dm-multipath says of the paths of a map: A is one that is used, F one that failed."""
    words = run("dmsetup", "status", Path(name).name).split()
    return [words[at + 1] for at, word in enumerate(words) if ":" in word]
