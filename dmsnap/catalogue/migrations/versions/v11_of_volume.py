"""Indexes for what is asked of each volume: its live points, its last jobs, its last swap."""

import sqlalchemy as sa
from alembic import op

revision = "11"
down_revision = "10"


def upgrade() -> None:
    op.add_column("job_volume", sa.Column("operation", sa.Text))
    op.execute(
        "UPDATE job_volume SET operation = (SELECT operation FROM job WHERE job.id = job_id)"
    )
    op.create_index("job_of_volume", "job_volume", ["volume_id", "job_id"])
    op.create_index(
        "job_of_volume_by_operation", "job_volume", ["volume_id", "operation", "job_id"]
    )
    # Earlier ones left it with points that were deleted.
    op.execute(
        "UPDATE point SET area_id = NULL WHERE deleted_ns IS NOT NULL AND area_id IS NOT NULL"
    )
    op.drop_index("job_operation", "job")
    op.create_index("job_started", "job", ["started_ns"])
    op.drop_index("job_unsettled", "job_volume")
    sqlite = op.get_bind().dialect.name == "sqlite"
    unsettled = "settled = 0" if sqlite else "NOT settled"
    _index("job_unsettled", "job_volume", ["volume_id", "settled", "job_id"], unsettled)
    _index("point_live", "point", ["volume_id", "created_ns"], "area_id IS NOT NULL")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(
        name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
