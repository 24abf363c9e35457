"""What can be written on the command line, as data: a module per noun, as in ``actions``."""

from dmsnap.cli.grammar import Elsewhere, Noun

ROOT = Noun(
    "dmsnap",
    "Recovery volumes for Linux storage.",
    (
        Elsewhere("protect", "volume.PROTECT"),
        Elsewhere("unprotect", "volume.UNPROTECT"),
        Elsewhere("assemble", "volume.ASSEMBLE"),
        Elsewhere("point", "point.POINT"),
        Elsewhere("snapshot", "snapshot.SNAPSHOT"),
        Elsewhere("prune", "prune.PRUNE"),
        Elsewhere("pool", "pool.POOL"),
        Elsewhere("sync", "volume.SYNC"),
        Elsewhere("verify", "volume.VERIFY"),
        Elsewhere("run", "run.RUN"),
        Elsewhere("swap", "swap.SWAP"),
        Elsewhere("failback", "swap.FAILBACK"),
        Elsewhere("attach", "attach.ATTACH"),
        Elsewhere("hydrate", "hydrate.HYDRATE"),
        Elsewhere("resize", "resize.RESIZE"),
        Elsewhere("export", "export.EXPORT"),
        Elsewhere("unexport", "export.UNEXPORT"),
        Elsewhere("lun", "lun.LUN"),
        Elsewhere("discover", "discover.DISCOVER"),
        Elsewhere("status", "status.STATUS"),
        Elsewhere("report", "report.REPORT"),
        Elsewhere("metrics", "metrics.METRICS"),
        Elsewhere("job", "job.JOB"),
        Elsewhere("inspect", "inspect.INSPECT"),
        Elsewhere("catalogue", "catalogue.CATALOGUE"),
        Elsewhere("config", "config.CONFIG"),
        Elsewhere("doctor", "host.DOCTOR"),
    ),
    details="A full, mountable replica of every protected volume, kept current by copying only "
    "what changed, and put in the volume's place by loading a table.",
)
