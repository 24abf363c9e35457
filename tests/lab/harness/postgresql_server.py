"""A PostgreSQL server for tests: Debian's, run by nobody, on a socket in a directory of its own."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from dmsnap.secret import Secret

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
USER = "dmsnap"
# No network, and what is in it is lost with it: nothing need be written through.
SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off")


class PostgresqlServer:
    """A context manager; made by :meth:`make`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._databases = 0

    @classmethod
    def make(cls) -> Self:
        """Make its directory and its files."""
        server = cls(Path(tempfile.mkdtemp(prefix="dmsnap-postgresql-")))
        if os.geteuid() == 0:
            shutil.chown(server.directory, "nobody", "nogroup")
        server._run("initdb", f"--username={USER}", "--auth=trust", "--no-sync", "--no-locale",
                    "--encoding=UTF8")  # fmt: skip
        return server

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = " ".join(f"-c {setting}" for setting in SETTINGS)
        self._run("pg_ctl", "start", "--wait", "--timeout=300", f"--log={self.directory}/log",
                  f"--options=-k {self.directory} {options}")  # fmt: skip

    def stop(self) -> None:
        """End it, by the process id in its own directory, as a crash does: nobody is waited for."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate")

    def url(self, database: str = "postgres") -> Secret:
        """As the configuration names it."""
        return Secret(f"postgresql+psycopg://{USER}@/{database}?host={self.directory}")

    def new_database(self) -> Secret:
        """The URL of a database that nobody has used before."""
        self._databases += 1
        name = f"test_{self._databases}"
        where = f"host={self.directory} user={USER} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to be run by root.
        nobody: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        subprocess.run(
            [INSTALLED[-1] / program, f"--pgdata={self.directory}/data", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            timeout=600,
            **(nobody if os.geteuid() == 0 else {}),
        )
