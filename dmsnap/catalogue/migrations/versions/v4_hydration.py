"""Moves to another device, units to stop, trials of live points. SQLite only, as all before 5."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateIndex, CreateTable

revision = "4"
down_revision = "3"

_metadata = sa.MetaData()
_volume = sa.Table("volume", _metadata, sa.Column("id", sa.Text, primary_key=True))
# Exports had come without a version of their own: the table may be there.
_export = sa.Table(
    "export",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("volume_id", sa.Text, sa.ForeignKey("volume.id"), index=True),
    sa.Column("point_id", sa.Text),
    sa.Column("device", sa.Text),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("lun", sa.Integer, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("initiators", sa.JSON, nullable=False),
    sa.Column("read_only", sa.Boolean, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
)


def upgrade() -> None:
    op.execute(CreateTable(_export, if_not_exists=True))
    for index in _export.indexes:
        op.execute(CreateIndex(index, if_not_exists=True))
    for name in ("hydration", "left_behind", "units"):
        op.add_column("volume", sa.Column(name, sa.JSON))
    op.add_column("volume", sa.Column("trial_live", sa.Boolean, server_default=sa.false()))
