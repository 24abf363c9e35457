"""The catalogue's tables. Times are nanoseconds since the epoch, sizes bytes, ids UUIDs as text."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

SCHEMA_VERSION = 5

# What brings a catalogue from each version to the next. New tables are there by then.
UPGRADES = {
    1: ("ALTER TABLE volume ADD COLUMN parting JSON",),
    2: (
        "INSERT INTO job_volume (job_id, volume_id, settled)"
        " SELECT id, volume_id, finished_ns IS NOT NULL FROM job WHERE volume_id IS NOT NULL",
        "DROP INDEX ix_job_volume_id",
        "ALTER TABLE job DROP COLUMN volume_id",
        "ALTER TABLE job ADD COLUMN arguments JSON NOT NULL DEFAULT '{}'",
        "ALTER TABLE job ADD COLUMN state TEXT NOT NULL DEFAULT 'running'",
        "UPDATE job SET state = CASE WHEN outcome LIKE 'done%' THEN 'done'"
        " WHEN outcome LIKE 'undone%' THEN 'undone' WHEN outcome LIKE 'failed%' THEN 'failed'"
        " ELSE 'abandoned' END WHERE finished_ns IS NOT NULL",
    ),
    3: (
        "ALTER TABLE volume ADD COLUMN hydration JSON",
        "ALTER TABLE volume ADD COLUMN left_behind JSON",
        "ALTER TABLE volume ADD COLUMN units JSON",
        "ALTER TABLE volume ADD COLUMN trial_live BOOLEAN DEFAULT 0",
    ),
    4: ("ALTER TABLE volume ADD COLUMN live JSON",),
}

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

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
    Column("created_ns", BigInteger, nullable=False),
    Column("removed_ns", BigInteger),
)
# A name is free again once its volume was unprotected.
Index("volume_name", volume.c.name, unique=True, sqlite_where=volume.c.removed_ns.is_(None))

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
    Column("volume_id", Text, ForeignKey("volume.id"), nullable=False, index=True),
    Column("created_ns", BigInteger, nullable=False, index=True),
    Column("keep", Boolean, nullable=False, default=False),
    Column("temporary", Boolean, nullable=False, default=False),
    Column("era_since", Integer, nullable=False),
    Column("tracking_id", Text, nullable=False),
    Column("window_seconds", Float, nullable=False),
    Column("area_id", Text),
    Column("invalid_reason", Text),
    Column("deleted_ns", BigInteger),
)

skipped = Table(
    "skipped",
    metadata,
    Column("recovery_id", Text, primary_key=True),
    Column("points", JSON, nullable=False),
    # Pairs of 64-bit numbers, little-endian, offset and length; compressed by zlib.
    Column("extents", LargeBinary, nullable=False),
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
)

# Settled: nothing of the job is left to be done or cleared on that volume.
job_volume = Table(
    "job_volume",
    metadata,
    Column("job_id", Integer, ForeignKey("job.id"), primary_key=True),
    Column("volume_id", Text, primary_key=True, index=True),
    Column("settled", Boolean, nullable=False, default=False),
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
