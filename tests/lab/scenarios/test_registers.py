"""The lab itself: processes of a guest keep their registers, on whatever processor it runs."""

import hashlib
import os

import pytest

PROCESSES = 6
ROUNDS = 40
CONTENT = bytes(range(256)) * 512  # 128 KiB
# SHA-256 and the multiplications live in vector registers from one time slice to the next.
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PRODUCT = 1.0000001


def computed() -> float:
    value = 1.0
    for _ in range(20_000):
        value *= PRODUCT
    return value


def child(expected: float) -> int:
    """The PID of a process that ends with status 0 when all that it computes is right."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for _ in range(ROUNDS):
            os.sched_yield()
            assert hashlib.sha256(CONTENT).hexdigest() == DIGEST
            assert computed() == expected
        status = 0
    finally:
        os._exit(status)


@pytest.mark.selection
def test_processes_keep_their_registers() -> None:
    """user-mode-linux hands them over by ptrace: see harness/preload/wide_registers.c."""
    expected = computed()
    children = [child(expected) for _ in range(PROCESSES)]
    assert {os.waitpid(pid, 0)[1] for pid in children} == {0}
