"""Metrics on a port: what is answered, and that nobody can hold it up."""

import asyncio
import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.daemon import duties, exposure
from dmsnap.daemon.exposure import Exposure, answer
from dmsnap.service.health import metrics
from dmsnap.service.health.era_room import EraRooms

TEXT = 'dmsnap_problems{volume="café"} 0\n'


def request(line: str) -> bytes:
    return f"{line}\r\nHost: 127.0.0.1\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /metrics HTTP/1.1", 200),
        ("GET /metrics?x=1 HTTP/1.0", 200),
        ("GET / HTTP/1.1", 404),
        ("GET /metrics/../x HTTP/1.1", 404),
        ("POST /metrics HTTP/1.1", 405),
        ("GET /metrics", 400),
        ("GET  /metrics HTTP/1.1", 400),
        ("PRI * HTTP/2.0", 400),
        ("", 400),
    ],
)
def test_one_page_is_served(line: str, status: int) -> None:
    found = answer(request(line), TEXT)
    assert found.startswith(f"HTTP/1.1 {status} ".encode())
    head, _, body = found.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert (body == TEXT.encode()) is (status == 200)


def test_a_head_is_an_answer_without_its_body() -> None:
    whole = answer(request("GET /metrics HTTP/1.1"), TEXT)
    assert whole == answer(request("HEAD /metrics HTTP/1.1"), TEXT) + TEXT.encode()


def test_before_the_first_look_there_is_nothing() -> None:
    assert b" 503 " in answer(request("GET /metrics HTTP/1.1"), None)


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_answered(head: bytes) -> None:
    assert answer(head, TEXT).startswith(b"HTTP/1.1 ")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def serving(exposed: Exposure, act: Callable[[], Awaitable[None]]) -> None:
    """Do something while it serves."""

    async def both() -> None:
        running = asyncio.create_task(exposed.run())
        try:
            await asyncio.wait_for(act(), 120)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(both())


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)


def got(port: int) -> str:
    """As another program gets it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(response.read().decode())


def test_it_is_served_again_and_again() -> None:
    exposed = Exposure(free_port())

    async def act() -> None:
        (await connected(exposed.port))[1].close()
        with pytest.raises(urllib.error.HTTPError):
            await asyncio.to_thread(got, exposed.port)
        for text in (TEXT, "x 1\n" * 100_000):
            exposed.text = text
            assert await asyncio.to_thread(got, exposed.port) == text
        # The wildcard address would be everybody's.
        with socket.socket() as other:
            other.bind(("127.0.0.2", exposed.port))

    serving(exposed, act)


def test_who_is_slow_or_says_too_much_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    exposed = Exposure(free_port(), TEXT)

    async def act() -> None:
        monkeypatch.setattr(exposure, "DEADLINE_SECONDS", 0.2)
        reader, writer = await connected(exposed.port)
        writer.write(b"GET /metr")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        reader, writer = await connected(exposed.port)
        writer.write(b"x" * 100_000)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        # Who is neither has the time that a busy machine takes.
        monkeypatch.setattr(exposure, "DEADLINE_SECONDS", 60)
        assert await asyncio.to_thread(got, exposed.port) == TEXT
        writer.close()
        while exposed.connections:
            await asyncio.sleep(0.01)

    serving(exposed, act)


def test_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "DEADLINE_SECONDS", 600)
    exposed = Exposure(free_port(), TEXT)

    async def act() -> None:
        held = [await connected(exposed.port) for _ in range(exposure.CONNECTIONS)]
        while exposed.connections < exposure.CONNECTIONS:
            await asyncio.sleep(0.01)
        with pytest.raises((ConnectionError, urllib.error.URLError)):
            await asyncio.to_thread(got, exposed.port)
        for _, writer in held:
            writer.close()
        while exposed.connections:
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(got, exposed.port) == TEXT

    serving(exposed, act)


def test_a_port_that_is_taken_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exposure, "RETRY_SECONDS", 0.02)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        exposed = Exposure(taken.getsockname()[1], TEXT)

        async def act() -> None:
            while "metrics are not served" not in caplog.text:
                await asyncio.sleep(0.01)
            taken.close()
            while "Content-Type" not in caplog.text:
                try:
                    assert await asyncio.to_thread(got, exposed.port) == TEXT
                    return
                except OSError:
                    await asyncio.sleep(0.02)

        serving(exposed, act)
    assert caplog.text.count("metrics are not served") == 1


@pytest.mark.parametrize("with_file", [False, True])
def test_the_survey_leaves_what_is_served(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, with_file: bool
) -> None:
    path = tmp_path / "x.prom" if with_file else None
    session: Any = SimpleNamespace(configuration=SimpleNamespace(metrics_file=path))
    monkeypatch.setattr(metrics, "facts", lambda *_: [])
    exposed = Exposure(1)
    assert duties.look(session, EraRooms(), exposed) == {}
    assert exposed.text is not None
    assert "dmsnap_metrics_timestamp_seconds" in exposed.text
    if path is not None:
        assert path.read_text() == exposed.text
