"""A target behind links of its own, in another network namespace: they can be cut."""

from collections.abc import Iterator
from contextlib import contextmanager

import lun_target
from conftest import run
from lun_target import LunTarget
from lun_volume import serving

NAMESPACE = "lun-target"


@contextmanager
def far_away() -> Iterator[LunTarget]:
    """By the link ``near0``, at 10.77.0.2."""
    run("modprobe", "veth")
    run("ip", "netns", "add", NAMESPACE)
    try:
        with _link(0), serving(LunTarget("10.77.0.2:3260", namespace=NAMESPACE)) as made:
            yield made
    finally:
        run("ip", "netns", "delete", NAMESPACE)


@contextmanager
def second_way(target: LunTarget) -> Iterator[str]:
    """Another portal of the target, by the link ``near1``."""
    with _link(1):
        portal = "10.78.0.2:3260"
        run("nsenter", f"--net=/run/netns/{NAMESPACE}", "mkdir", target.group / "np" / portal)
        try:
            yield portal
        finally:
            lun_target.end_all_sessions()


@contextmanager
def _link(number: int) -> Iterator[None]:
    near, far, network = f"near{number}", f"far{number}", f"10.{77 + number}.0"
    run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
    try:
        run("ip", "link", "set", far, "netns", NAMESPACE)
        run("ip", "address", "add", f"{network}.1/24", "dev", near)
        run("ip", "link", "set", near, "up")
        run("ip", "-n", NAMESPACE, "address", "add", f"{network}.2/24", "dev", far)
        run("ip", "-n", NAMESPACE, "link", "set", far, "up")
        yield
    finally:
        run("ip", "link", "delete", near)
