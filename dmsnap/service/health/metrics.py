"""Metrics of every volume: how far back it can be recovered from, and what became of its jobs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from dmsnap.catalogue import jobs
from dmsnap.catalogue.clock import now_ns
from dmsnap.catalogue.model import Job, JobState, StepState, Volume
from dmsnap.catalogue.store import Catalogue
from dmsnap.policy.chronology import NANOSECONDS
from dmsnap.service.health import status
from dmsnap.service.health.exposition import Metric, Sample, exposition
from dmsnap.service.health.silence import Ask
from dmsnap.service.health.status import LivePointStatus, VolumeStatus
from dmsnap.service.operations import OPERATIONS
from dmsnap.service.schedules import lateness
from dmsnap.service.session import Session

# Of older jobs of the host only the last of each operation on each volume are looked for.
JOBS = 100


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one volume. ``jobs`` are its last ones, the newest first.

    ``window_seconds`` is how long it stood still for its newest point; those of a catalogue that
    was built anew have none.
    """

    status: VolumeStatus
    window_seconds: float | None
    jobs: Sequence[Job]

    @property
    def name(self) -> str:
        return self.status.volume

    @property
    def recoverable_ns(self) -> int | None:
        """When the newest point was taken that is on the replica, or a live snapshot that holds."""
        return self.status.newest.created_ns if self.status.newest else None

    @property
    def audited_ns(self) -> int | None:
        """When the last comparison with the volume ended that found nothing wrong."""
        ended = (job.finished_ns for job in self.jobs if _has_audited(job))
        return next((each for each in ended if each is not None), None)

    def failures(self) -> Iterator[tuple[str, int]]:
        """Each operation that failed, or was undone, with when it last did."""
        seen = set()
        for job in self.jobs:
            failed = job.state in (JobState.FAILED, JobState.UNDONE) and job.finished_ns is not None
            if failed and job.operation not in seen:
                seen.add(job.operation)
                yield job.operation, job.finished_ns or 0


def _has_audited(job: Job) -> bool:
    if job.state is not JobState.DONE:
        return False
    return job.operation == "verify" or job.has("audit", StepState.DONE)


def text(session: Session) -> str:
    """All metrics, as ``dmsnap metrics`` prints them. Needs root."""
    return text_of(facts(session))


def text_of(known: Sequence[Facts]) -> str:
    """All metrics of what was just looked at."""
    return exposition(metrics(known, now_ns()))


def facts(session: Session, ask: Ask | None = None) -> list[Facts]:
    """Look at every volume, as ``status.status`` does."""
    volumes = session.catalogue.volumes()
    done = jobs_of(session.catalogue, volumes)
    found = status.statuses(session, volumes, lateness.promises(session), ask)
    return [
        Facts(seen, recorded.window_seconds, done[volume.id])
        for volume, (seen, recorded) in zip(volumes, found, strict=True)
    ]


def jobs_of(catalogue: Catalogue, volumes: Sequence[Volume]) -> dict[UUID, list[Job]]:
    """The last jobs of each volume, the newest first."""
    ids = [volume.id for volume in volumes]
    found = [
        *jobs.recent(catalogue, JOBS),
        *jobs.newest_of_each(catalogue, ids, tuple(OPERATIONS)),
    ]
    newest = sorted({job.id: job for job in found}.values(), key=lambda job: job.id, reverse=True)
    return {each: [job for job in newest if each in job.volume_ids] for each in ids}


def metrics(known: Sequence[Facts], at_ns: int) -> list[Metric]:
    """What is exposed, by name."""
    return [
        Metric(
            "dmsnap_metrics_timestamp_seconds",
            "When these metrics were made.",
            [Sample({"program": "dmsnap"}, at_ns / NANOSECONDS)],
        ),
        _of_volumes(
            "dmsnap_newest_point_age_seconds",
            "Age of the newest point that can be recovered, when these metrics were made.",
            [(each.name, _age_seconds(each.recoverable_ns, at_ns)) for each in known],
        ),
        _of_volumes(
            "dmsnap_replica_age_seconds",
            "Age of what the recovery volume holds, when these metrics were made.",
            [
                (each.name, each.status.replica.age_seconds if each.status.replica else None)
                for each in known
            ],
        ),
        _of_volumes(
            "dmsnap_newer_point_due_timestamp_seconds",
            "When the first run after the newest point begins, by the schedules of policies.",
            [(each.name, _seconds(each.status.punctuality.due_ns)) for each in known],
        ),
        _of_volumes(
            "dmsnap_window_seconds",
            "How long the volume stood still for its last point.",
            [(each.name, each.window_seconds) for each in known],
        ),
        *_sizes(known),
        *_of_live_points(
            [(each.name, point) for each in known for point in each.status.live_points]
        ),
        _of_volumes(
            "dmsnap_last_audit_timestamp_seconds",
            "When the last audit ended that found nothing wrong.",
            [(each.name, _seconds(each.audited_ns)) for each in known],
        ),
        Metric(
            "dmsnap_last_failure_timestamp_seconds",
            "When an operation last failed or was undone.",
            [
                Sample({"volume": each.name, "operation": operation}, ended_ns / NANOSECONDS)
                for each in known
                for operation, ended_ns in each.failures()
            ],
        ),
        _of_volumes(
            "dmsnap_problems",
            "How many things dmsnap status finds wrong.",
            [(each.name, len(each.status.problems)) for each in known],
        ),
    ]


def _sizes(known: Sequence[Facts]) -> Iterator[Metric]:
    replicas = [(each.name, each.status.replica) for each in known]
    yield _of_volumes(
        "dmsnap_volume_bytes",
        "Size of the volume.",
        [(each.name, each.status.size_bytes) for each in known],
    )
    yield _of_volumes(
        "dmsnap_history_bytes",
        "Room for earlier points on the recovery volume.",
        [(name, replica.history_bytes if replica else None) for name, replica in replicas],
    )
    yield _of_volumes(
        "dmsnap_history_used_bytes",
        "What earlier points take of it.",
        [(name, replica.history_used_bytes if replica else None) for name, replica in replicas],
    )


def _of_live_points(points: Sequence[tuple[str, LivePointStatus]]) -> Iterator[Metric]:
    labelled = [({"volume": volume, "point": each.point}, each) for volume, each in points]
    yield Metric(
        "dmsnap_cow_used_bytes",
        "What a live point's COW store holds.",
        [Sample(labels, each.used_bytes) for labels, each in labelled],
    )
    yield Metric(
        "dmsnap_cow_bytes",
        "Size of a live point's COW store.",
        [Sample(labels, each.total_bytes) for labels, each in labelled],
    )


def _of_volumes(name: str, text: str, values: Sequence[tuple[str, float | None]]) -> Metric:
    """A metric with a sample for each volume; what is not known is left out."""
    samples = [Sample({"volume": each}, value) for each, value in values if value is not None]
    return Metric(name, text, samples)


def _seconds(moment_ns: int | None) -> float | None:
    return None if moment_ns is None else moment_ns / NANOSECONDS


def _age_seconds(moment_ns: int | None, at_ns: int) -> float | None:
    return None if moment_ns is None else max(0, at_ns - moment_ns) / NANOSECONDS
