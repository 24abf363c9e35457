"""What the survey says as problems come and go."""

import asyncio
import threading

import fake_clock
import pytest

from dmsnap.daemon import survey as surveying
from dmsnap.daemon.survey import Problems, Survey
from dmsnap.errors import DmsnapError


def test_each_problem_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found: dict[str, list[str] | None] = {"data": ["a is lost"], "home": []}
    survey = Survey(lambda: found)
    survey.once()
    survey.once()
    found["data"] = ["a is lost", "b too"]
    survey.once()
    found["data"] = None  # a command works on it
    survey.once()
    found["data"] = []
    survey.once()
    del found["data"]
    survey.once()
    assert [record.getMessage() for record in caplog.records] == [
        "data: a is lost", "data: b too", "data: all is well again"
    ]  # fmt: skip
    assert caplog.records[0].__dict__["volume"] == "data"
    assert survey.known == {"home": ()}


def test_a_survey_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def look() -> Problems:
        raise DmsnapError("the catalogue is busy")

    Survey(look).once()
    assert "the catalogue is busy" in caplog.text


def test_a_survey_that_hangs_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And goes on when what hung is back: until then nothing is seen."""
    caplog.set_level("INFO")
    monkeypatch.setattr(surveying, "LATE_SECONDS", 0.01)
    hangs, told = threading.Event(), []

    def look() -> Problems:
        assert hangs.wait(60)
        return {"srv": ["a is lost"]}

    async def some_time() -> None:
        running = asyncio.create_task(Survey(look).run())
        while "a disk may hang" not in caplog.text:
            await asyncio.sleep(0.01)
        told.append(caplog.text)
        hangs.set()
        while "looked at again" not in caplog.text:
            await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(asyncio.wait_for(some_time(), 60))
    assert "a is lost" not in told[0]
    assert "srv: a is lost" in caplog.text


def test_it_runs_until_it_is_cancelled() -> None:
    looked = []

    async def scene() -> None:
        loop, has_looked = asyncio.get_running_loop(), asyncio.Event()

        def look() -> Problems:
            looked.append(1)
            loop.call_soon_threadsafe(has_looked.set)
            return {}

        running = asyncio.create_task(Survey(look).run())
        await asyncio.wait_for(has_looked.wait(), 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scene())
    assert looked == [1]


def test_it_looks_after_events_and_else_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an event at once, but five seconds after the last look at the earliest."""
    looked: list[float] = []
    monkeypatch.setattr("dmsnap.daemon.survey.in_own_thread", fake_clock.at_once)

    async def scene() -> None:
        def look() -> Problems:
            looked.append(asyncio.get_running_loop().time())
            return {}

        survey = Survey(look)
        running = asyncio.create_task(survey.run())
        await asyncio.sleep(130)
        survey.event.set()
        await asyncio.sleep(1)
        survey.event.set()
        await asyncio.sleep(60)
        running.cancel()

    fake_clock.run(scene())
    assert looked == pytest.approx([0, 60, 120, 130, 135])
