"""Loads under which a point is taken; each runs until its block ends."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WARM_UP_SECONDS = 4.0
FIO = ("fio", "--name=load", "--size=512m", "--time_based", "--runtime=7200")
RANDOM = (*FIO, "--bs=4k", "--rw=randwrite")
COMMANDS: dict[str, tuple[str, ...]] = {
    "idle": (),
    "4 KiB random buffered": (*RANDOM, "--ioengine=psync"),
    "4 KiB random direct": (*RANDOM, "--ioengine=libaio", "--direct=1", "--iodepth=16"),
    "1 MiB sequential": (*FIO, "--bs=1m", "--rw=write", "--ioengine=psync"),
    "SQLite commits": (sys.executable, __file__),
}


@contextmanager
def running(name: str, directory: Path) -> Iterator[None]:
    """Run a load in ``directory``, warmed up; it must live until the end."""
    command = COMMANDS[name]
    if not command:
        yield
        return
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as load:
        time.sleep(WARM_UP_SECONDS)
        try:
            yield
            if load.poll() is not None:
                _, said = load.communicate()
                raise RuntimeError(f"the load {name} ended early: {said.decode()}")
        finally:
            load.terminate()


def commit_rows(database: sqlite3.Connection, ended: Callable[[], bool]) -> None:
    """Small transactions, each made durable: a WAL in full synchronous mode."""
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, content BLOB)")
    while not ended():
        with database:
            database.execute("INSERT INTO entry (content) VALUES (randomblob(1000))")


if __name__ == "__main__":
    commit_rows(sqlite3.connect("load.db"), lambda: False)
