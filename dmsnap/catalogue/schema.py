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

SCHEMA_VERSION = 2

# What brings a catalogue from each version to the next.
UPGRADES = {1: ("ALTER TABLE volume ADD COLUMN parting JSON",)}

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

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("volume_id", Text, index=True),
    Column("operation", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("finished_ns", BigInteger),
    Column("outcome", Text),
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
