"""What holds for every unit test, and catalogues in both kinds of database."""

import os
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from harness.postgresql_server import INSTALLED, PostgresqlServer
from hypothesis import HealthCheck, settings

from dmsnap.catalogue.database import Place
from dmsnap.catalogue.store import Catalogue

# A shell gives the processes it starts in the background SIGINT ignored, and programs pass that on:
# tests of Ctrl-C would then test nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast examples are made says how busy the machine is.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# dmsnap refuses configuration files and hooks that the group can write to, and some umasks let it.
os.umask(0o022)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes is left out, unless marks are chosen: make test-exhaustive."""
    if not config.option.markexpr:
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(pytest.mark.skip(reason="make test-exhaustive"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    if not INSTALLED:
        pytest.skip("make deps installs PostgreSQL")
    with PostgresqlServer.make() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place]:
    """Makes places for catalogues, in either kind of database."""
    if request.param == "sqlite":
        numbers = count()
        return lambda: tmp_path / f"state{next(numbers) or ''}" / "catalogue.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_database


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    """Where a catalogue can be made, in either kind of database."""
    return new_place()


@pytest.fixture
def catalogue(place: Place) -> Iterator[Catalogue]:
    with Catalogue.open(place) as opened:
        yield opened
