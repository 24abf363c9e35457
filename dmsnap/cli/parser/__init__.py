"""What can be written on the command line, as data: a module per noun, as in ``actions``."""

from dmsnap.cli.grammar import Noun
from dmsnap.cli.parser import (
    catalogue,
    config,
    export,
    host,
    hydrate,
    inspect,
    job,
    lun,
    metrics,
    point,
    prune,
    report,
    run,
    snapshot,
    status,
    swap,
    volume,
)

ROOT = Noun(
    "dmsnap",
    "Recovery volumes for Linux storage.",
    (
        volume.PROTECT,
        volume.UNPROTECT,
        volume.ASSEMBLE,
        point.POINT,
        snapshot.SNAPSHOT,
        prune.PRUNE,
        volume.SYNC,
        volume.VERIFY,
        run.RUN,
        swap.SWAP,
        swap.FAILBACK,
        hydrate.HYDRATE,
        export.EXPORT,
        export.UNEXPORT,
        lun.LUN,
        status.STATUS,
        report.REPORT,
        metrics.METRICS,
        job.JOB,
        inspect.INSPECT,
        catalogue.CATALOGUE,
        config.CONFIG,
        host.DOCTOR,
    ),
    details="A full, mountable replica of every protected volume, kept current by copying only "
    "what changed, and put in the volume's place by loading a table.",
)
