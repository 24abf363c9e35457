"""Jobs of several volumes, with their arguments and a state. SQLite only, as all before 5."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateTable

revision = "3"
down_revision = "2"

_metadata = sa.MetaData()
# What a replica leaves out had come without a version of its own: it may be there.
_skipped = sa.Table(
    "skipped",
    _metadata,
    sa.Column("recovery_id", sa.Text, primary_key=True),
    sa.Column("points", sa.JSON, nullable=False),
    sa.Column("extents", sa.LargeBinary, nullable=False),
)


def upgrade() -> None:
    op.execute(CreateTable(_skipped, if_not_exists=True))
    op.create_table(
        "job_volume",
        sa.Column("job_id", sa.Integer, sa.ForeignKey("job.id"), primary_key=True),
        sa.Column("volume_id", sa.Text, primary_key=True, index=True),
        sa.Column("settled", sa.Boolean, nullable=False),
    )
    op.execute(
        "INSERT INTO job_volume (job_id, volume_id, settled)"
        " SELECT id, volume_id, finished_ns IS NOT NULL FROM job WHERE volume_id IS NOT NULL"
    )
    op.drop_index("ix_job_volume_id", "job")
    op.drop_column("job", "volume_id")
    op.add_column("job", sa.Column("arguments", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("job", sa.Column("state", sa.Text, nullable=False, server_default="running"))
    op.execute(
        "UPDATE job SET state = CASE WHEN outcome LIKE 'done%' THEN 'done'"
        " WHEN outcome LIKE 'undone%' THEN 'undone' WHEN outcome LIKE 'failed%' THEN 'failed'"
        " ELSE 'abandoned' END WHERE finished_ns IS NOT NULL"
    )
