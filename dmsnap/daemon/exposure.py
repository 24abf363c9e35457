"""Metrics on a port of the loopback interface, for who has no collector of files.

What is answered was made by the last survey: a request never waits for a disk, and however many
come they cost no look. A responder for one page, because what there is for Python (http.server, and
the Prometheus client on wsgiref) begins a thread for each connection and waits without an end.
"""

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CONNECTIONS = 8
HEAD_BYTES = 8192
# For the head of a request, and again for the answer to be taken.
DEADLINE_SECONDS = 5.0
# A port that another program has is asked for again.
RETRY_SECONDS = 30.0


@dataclass(slots=True)
class Exposure:
    """``text`` is what the survey left last; None: nothing yet."""

    port: int
    text: str | None = None
    connections: int = 0

    async def run(self) -> None:
        """Until it is cancelled. Without the port everything else goes on."""
        told = None
        while True:
            try:
                server = await asyncio.start_server(
                    self._connected, HOST, self.port, limit=HEAD_BYTES
                )
            except OSError as error:
                if str(error) != told:
                    log.error("metrics are not served on port %d: %s", self.port, error)
                told = str(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            log.info("metrics are at http://%s:%d%s", HOST, self.port, PATH)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self.connections >= CONNECTIONS:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            self.connections -= 1
            writer.close()

    async def _converse(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One request, one answer. Whoever is slow at either is cut off."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                head = b""
        async with asyncio.timeout(DEADLINE_SECONDS):
            writer.write(answer(head, self.text))
            await writer.drain()
            writer.write_eof()


def answer(head: bytes, text: str | None) -> bytes:
    """The whole answer to a request, of which the first line counts."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _response("400 Bad Request", "this is no request\n")
    method, target = words[0], words[1].partition(b"?")[0]
    if target != PATH.encode():
        return _response("404 Not Found", f"metrics are at {PATH}\n")
    if method not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", "only GET and HEAD\n", allow="Allow: GET, HEAD")
    if text is None:
        return _response("503 Service Unavailable", "no volume was looked at yet\n")
    whole = _response("200 OK", text)
    return whole if method == b"GET" else whole[: whole.index(b"\r\n\r\n") + 4]


def _response(status: str, text: str, *, allow: str | None = None) -> bytes:
    body = text.encode(errors="backslashreplace")
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        *([allow] if allow else []),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
