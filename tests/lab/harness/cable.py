"""A network cable between two guests: pairs of sockets on which each packet is one message.

Nothing of the host's own network is touched. A thread carries the packets across, and drops those
for a guest that is switched off: left in the socket they would stop the sender for good, as
user-mode-linux does not go on after its queue was full (vector_kern.c, "transmit queue timed out").
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PACKET_BYTES = 1 << 16
QUEUE_BYTES = 8 << 20
SO_SNDBUFFORCE = 32  # asm-generic/socket.h


@dataclass(frozen=True, slots=True)
class Plug:
    """One end of a cable. In the guest it is the network device ``vec0``, with one address of its
    own at every boot, as a real one has: others remember it for a while.
    """

    socket: socket.socket
    mac: str

    def drain(self) -> None:
        """Forget the packets that nobody lived to receive."""
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(PACKET_BYTES, socket.MSG_DONTWAIT):
                pass


@contextmanager
def cable() -> Iterator[tuple[Plug, Plug]]:
    """Both ends of a new cable."""
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for end in [end for pair in pairs for end in pair]:
            stack.enter_context(end)
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, QUEUE_BYTES)
        inner = [pair[1] for pair in pairs]
        carrier = threading.Thread(target=_carry, args=inner, daemon=True)
        carrier.start()
        try:
            yield Plug(pairs[0][0], "02:00:00:00:00:01"), Plug(pairs[1][0], "02:00:00:00:00:02")
        finally:
            for end in inner:
                end.shutdown(socket.SHUT_RDWR)
            carrier.join()


def _carry(one: socket.socket, other: socket.socket) -> None:
    """Carry packets both ways until the cable is gone."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                packet = source.recv(PACKET_BYTES)
                if not packet:
                    return
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    key.data.send(packet, socket.MSG_DONTWAIT)
