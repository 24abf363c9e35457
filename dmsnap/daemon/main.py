"""``dmsnapd``: the entry point."""

import argparse
import asyncio
import logging
import os
from collections.abc import Sequence

from dmsnap.daemon import duties, lifecycle
from dmsnap.errors import DmsnapError, ExitCode
from dmsnap.host import journald
from dmsnap.host.notification import Notifier
from dmsnap.service import jobs
from dmsnap.service.session import Session
from dmsnap.version import __version__

PROGRAM = "dmsnapd"

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit code. Needs root."""
    given = _parser().parse_args(arguments)
    level = logging.DEBUG if given.debug else logging.INFO
    logging.basicConfig(level=level, handlers=[journald.handler(PROGRAM)], force=True)
    try:
        with Session.open() as session:
            tell_of_jobs(session)
            serve(session)
    except DmsnapError as error:
        log.error("%s%s", error, f" ({error.hint})" if error.hint else "")
        log.debug("", exc_info=True)
        return int(error.exit_code)
    return int(ExitCode.OK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Watches protected volumes. Everything that it does can be done without it, by "
        "the command dmsnap.",
    )
    parser.add_argument("--debug", action="store_true", help="log every step")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def tell_of_jobs(session: Session) -> None:
    """Say what is still cut off: the unit has had all finished or undone that could be."""
    for job in jobs.cut_off(session):
        log.warning(
            "job %d, %s, was cut off at %s and is not at its end: dmsnap job resume %d",
            job.id,
            job.operation,
            job.at,
            job.id,
            extra={"job": job.id, "operation": job.operation, "volume": " ".join(job.volumes)},
        )


def serve(session: Session) -> None:
    """Take up the duties."""
    names = sorted(volume.name for volume in session.catalogue.volumes())
    status = f"watching {', '.join(names) or 'no volume'}"
    log.info("%s %s: %s", PROGRAM, __version__, status)
    asyncio.run(lifecycle.serve(duties.of(session), Notifier.of(os.environ), status))
    log.info("ended")
