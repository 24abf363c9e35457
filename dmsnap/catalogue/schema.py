"""The catalogue's tables. Times are nanoseconds since the epoch, sizes bytes, ids UUIDs as text."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    literal_column,
)

metadata = MetaData()


def _where(
    name: str, *columns: Column[Any], where: ColumnElement[bool], unique: bool = False
) -> None:
    """An index of some of the rows."""
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


# One row. Name and type of its column are Alembic's.
schema_version = Table(
    "schema_version", metadata, Column("version_num", String(32), primary_key=True)
)

volume = Table(
    "volume",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("backing", Text, nullable=False),
    Column("recovery", Text),
    Column("recovery_id", Text),
    Column("store", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("block_bytes", Integer, nullable=False),
    Column("chunk_bytes", Integer, nullable=False),
    Column("fs_type", Text, nullable=False, default=""),
    Column("fs_uuid", Text, nullable=False, default=""),
    Column("mounts", JSON, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("tracking_id", Text, nullable=False),
    Column("trial_point", Text),
    Column("previous_backing", Text),
    Column("parting", JSON(none_as_null=True)),
    Column("hydration", JSON(none_as_null=True)),
    Column("left_behind", JSON(none_as_null=True)),
    Column("units", JSON),
    Column("trial_live", Boolean, default=False),
    Column("live", JSON(none_as_null=True)),
    Column("joined", Boolean, default=False),
    Column("device_bytes", BigInteger),
    # By path; the identity of each device, as the inventory has it.
    Column("led_to", JSON(none_as_null=True)),
    Column("created_ns", BigInteger, nullable=False),
    Column("removed_ns", BigInteger),
)
# A name is free again once its volume was unprotected.
_where("volume_name", volume.c.name, where=volume.c.removed_ns.is_(None), unique=True)

area = Table(
    "area",
    metadata,
    Column("id", Text, primary_key=True),
    Column("volume_id", Text, ForeignKey("volume.id"), nullable=False, index=True),
    Column("role", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("point_id", Text),
)

point = Table(
    "point",
    metadata,
    Column("id", Text, primary_key=True),
    Column("volume_id", Text, ForeignKey("volume.id"), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("keep", Boolean, nullable=False, default=False),
    Column("temporary", Boolean, nullable=False, default=False),
    # 32 bits without a sign, as the kernel has it.
    Column("era_since", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("tracking_id", Text, nullable=False),
    Column("window_seconds", Float, nullable=False),
    Column("area_id", Text),
    Column("invalid_reason", Text),
    Column("deleted_ns", BigInteger),
    Column("deleted_reason", Text),
    Column("deleted_by", Text),
    # Of a deleted one: see ``past``.
    Column("lifetime_class", Integer),
    Column("expires_ns", BigInteger),
    Column("comment", Text),
)
# Records of deleted points stay: after years there are a thousand of them for each that is left.
_where("point_present", point.c.volume_id, point.c.created_ns, where=point.c.deleted_ns.is_(None))
_where(
    "point_past",
    point.c.volume_id,
    point.c.lifetime_class,
    point.c.created_ns,
    where=point.c.deleted_ns.is_not(None),
)
_where("point_live", point.c.volume_id, point.c.created_ns, where=point.c.area_id.is_not(None))

# Where a point could be recovered from, and until when; without an end it still can.
place = Table(
    "place",
    metadata,
    Column("point_id", Text, ForeignKey("point.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("since_ns", BigInteger, primary_key=True),
    Column("device", Text, nullable=False),
    Column("until_ns", BigInteger),
)

# By what else than its path a volume's device is known, and when that was last seen.
identifier = Table(
    "identifier",
    metadata,
    Column("volume_id", Text, ForeignKey("volume.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("seen_ns", BigInteger, nullable=False),
)

skipped = Table(
    "skipped",
    metadata,
    Column("recovery_id", Text, primary_key=True),
    Column("points", JSON, nullable=False),
    # Pairs of 64-bit numbers, little-endian, offset and length; compressed by zlib.
    Column("extents", LargeBinary, nullable=False),
)

# What went back to a pool, and how it was known to be untouched since: see ``recovery.remains``.
released = Table(
    "released",
    metadata,
    Column("device", Text, primary_key=True),
    Column("volume", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mark", Text, nullable=False),
    Column("released_ns", BigInteger, nullable=False),
    Column("led_to", Text),
)

export = Table(
    "export",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("volume_id", Text, ForeignKey("volume.id"), index=True),
    Column("point_id", Text),
    Column("device", Text),
    Column("size_bytes", BigInteger, nullable=False),
    Column("target", Text, nullable=False),
    Column("lun", Integer, nullable=False),
    Column("address", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("initiators", JSON, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("led_to", Text),
)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("operation", Text, nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("finished_ns", BigInteger),
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Index("job_started", "started_ns"),
)
_where("job_running", job.c.id, where=job.c.state == literal_column("'running'"))

# Settled: nothing of the job is left to be done or cleared on that volume.
job_volume = Table(
    "job_volume",
    metadata,
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("volume_id", Text, primary_key=True),
    Column("settled", Boolean, nullable=False, default=False),
    # The job's: the last swap of a volume is found among a million other jobs.
    Column("operation", Text),
    Index("job_of_volume", "volume_id", "job_id"),
    Index("job_of_volume_by_operation", "volume_id", "operation", "job_id"),
)
# All that is asked for is in it: else SQLite would rather take an index of all rows.
_where(
    "job_unsettled",
    job_volume.c.volume_id,
    job_volume.c.settled,
    job_volume.c.job_id,
    where=~job_volume.c.settled,
)

job_step = Table(
    "job_step",
    metadata,
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("seconds", Float),
)

# What hooks did in a step, in the order in which they ran. Of each hook only so many are kept.
hook_run = Table(
    "hook_run",
    metadata,
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("step", Text, nullable=False),
    Column("hook", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("seconds", Float),
    Column("output", Text, nullable=False),
    Index("hook_run_of", "hook", "job_id"),
)
