"""Metrics: what of a volume is exposed, and in which form."""

from dataclasses import replace
from uuid import uuid4

from catalogue_samples import a_volume

from dmsnap.catalogue import jobs
from dmsnap.catalogue.model import Job, JobState, JobStep, StepState, Volume, VolumeState
from dmsnap.catalogue.store import Catalogue
from dmsnap.report.content import NOTHING_PROMISED, Punctuality, Verdict
from dmsnap.service.health import metrics
from dmsnap.service.health.exposition import Metric, Sample, exposition
from dmsnap.service.health.metrics import Facts
from dmsnap.service.health.recoverable import RecoverablePoint
from dmsnap.service.health.status import LivePointStatus, ReplicaStatus, VolumeStatus

SECOND = 10**9
OLD, NEW, LOST = uuid4(), uuid4(), uuid4()
VOLUME = uuid4()


def job(operation: str, state: JobState, ended: int, *steps: str) -> Job:
    done = tuple(JobStep(step, StepState.DONE, 1.0) for step in steps)
    return Job(1, operation, {}, (VOLUME,), 1, 0, ended * SECOND, state, None, done)


STATUS = VolumeStatus(
    "data", VolumeState.PROTECTED, "/dev/mapper/data", "/dev/sda", 3 << 50, (), None, (),
    ReplicaStatus("/dev/sdb", "consistent", str(OLD), "", 1.0, 2, 4096, 1024),
    (
        LivePointStatus(str(NEW), "", "OK", 512, 1024),
        LivePointStatus(str(LOST), "", "Invalid", 0, 0),
    ),
    ("one", "two"), newest=RecoverablePoint(str(NEW), 200 * SECOND, 1.0),
    punctuality=Punctuality(Verdict.IN_TIME, ("daily",), 420 * SECOND),
)  # fmt: skip
FACTS = Facts(
    STATUS,
    0.25,
    [
        job("sync", JobState.UNDONE, 290),
        job("sync", JobState.FAILED, 250),
        job("sync", JobState.DONE, 240),
        job("sync", JobState.DONE, 230, "audit"),
        job("verify", JobState.DONE, 220),
    ],
)


def lines(*facts: Facts) -> list[str]:
    text = exposition(metrics.metrics(facts, 400 * SECOND))
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_every_metric() -> None:
    assert lines(FACTS) == [
        'dmsnap_metrics_timestamp_seconds{program="dmsnap"} 400',
        'dmsnap_newest_point_age_seconds{volume="data"} 200',
        'dmsnap_replica_age_seconds{volume="data"} 1',
        'dmsnap_newer_point_due_timestamp_seconds{volume="data"} 420',
        'dmsnap_window_seconds{volume="data"} 0.25',
        f'dmsnap_volume_bytes{{volume="data"}} {3 << 50}',
        'dmsnap_history_bytes{volume="data"} 4096',
        'dmsnap_history_used_bytes{volume="data"} 1024',
        f'dmsnap_cow_used_bytes{{volume="data",point="{NEW}"}} 512',
        f'dmsnap_cow_used_bytes{{volume="data",point="{LOST}"}} 0',
        f'dmsnap_cow_bytes{{volume="data",point="{NEW}"}} 1024',
        f'dmsnap_cow_bytes{{volume="data",point="{LOST}"}} 0',
        'dmsnap_last_audit_timestamp_seconds{volume="data"} 230',
        'dmsnap_last_failure_timestamp_seconds{volume="data",operation="sync"} 290',
        'dmsnap_problems{volume="data"} 2',
    ]


def test_no_point_is_as_good_as_none() -> None:
    """What is lost, or torn, does not make the age smaller: the sample is missing."""
    torn = replace(STATUS, newest=None)
    assert not [line for line in lines(replace(FACTS, status=torn)) if "newest_point_age" in line]
    bare = replace(STATUS, replica=None, live_points=(), newest=None)
    bare = replace(bare, punctuality=NOTHING_PROMISED)
    found = lines(Facts(bare, None, []))
    assert [line.partition("{")[0] for line in found] == [
        "dmsnap_metrics_timestamp_seconds", "dmsnap_volume_bytes", "dmsnap_problems"
    ]  # fmt: skip


def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    text = exposition(metrics.metrics([FACTS], 0))
    assert 'dmsnap_newest_point_age_seconds{volume="data"} 0\n' in text


def test_what_became_of_jobs_is_known_however_many_others_came_since(
    catalogue: Catalogue,
) -> None:
    """Of each operation on a volume the last one, and the last that ended well."""
    volume, other = a_volume(), replace(a_volume(), id=uuid4(), name="other")
    for each in (volume, other):
        catalogue.add_volume(each)

    def done(operation: str, state: JobState, on: Volume = volume) -> int:
        number = jobs.begin(catalogue, operation, [on.id], arguments={}, pid=1, steps=["audit"])
        if state is JobState.DONE:
            jobs.record_step(catalogue, number, 0, StepState.DONE, 1.0)
        jobs.end(catalogue, number, state, "")
        return number

    audited = done("sync", JobState.DONE)
    failed, undone = done("sync", JobState.FAILED), done("swap", JobState.UNDONE)
    for _ in range(metrics.JOBS):
        done("point create", JobState.DONE, other)
    found = metrics.jobs_of(catalogue, [volume, other])
    mine = Facts(STATUS, None, found[volume.id])
    assert [job.id for job in mine.jobs] == [undone, failed, audited]
    assert {operation for operation, _ in mine.failures()} == {"sync", "swap"}
    assert mine.audited_ns == jobs.job(catalogue, audited).finished_ns
    assert len(found[other.id]) == metrics.JOBS


def test_the_form() -> None:
    metric = Metric(
        "m_bytes", "What it is.", [Sample({"a": 'x"y\\z\n'}, 1.5), Sample({"a": ""}, 2)]
    )
    assert exposition([metric, Metric("none", "x", [])]) == (
        "# HELP m_bytes What it is.\n# TYPE m_bytes gauge\n"
        'm_bytes{a="x\\"y\\\\z\\n"} 1.5\nm_bytes{a=""} 2\n'
    )
