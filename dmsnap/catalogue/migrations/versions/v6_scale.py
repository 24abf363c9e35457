"""Indexes for a million points and their jobs, and by how long deleted points had lived."""

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"

SECOND_NS = 10**9
CLASSES = range(18)


def upgrade() -> None:
    op.add_column("point", sa.Column("lifetime_class", sa.Integer))
    # The longest first: what lived for less than no time, since clocks go back, is left with 0.
    for number in reversed(CLASSES):
        less_ns = min(4**number * SECOND_NS, 2**63 - 1)
        op.execute(
            f"UPDATE point SET lifetime_class = {number} WHERE deleted_ns - created_ns < {less_ns}"  # noqa: S608
        )
    for table, name in (
        ("point", "ix_point_volume_id"),
        ("point", "ix_point_created_ns"),
        ("job_volume", "ix_job_volume_volume_id"),
    ):
        op.drop_index(name, table)
    _index("point_present", "point", ["volume_id", "created_ns"], "deleted_ns IS NULL")
    _index(
        "point_past", "point", ["volume_id", "lifetime_class", "created_ns"],
        "deleted_ns IS NOT NULL",
    )  # fmt: skip
    op.create_index("job_operation", "job", ["operation", "id"])
    _index("job_running", "job", ["id"], "state = 'running'")
    sqlite = op.get_bind().dialect.name == "sqlite"
    _index("job_unsettled", "job_volume", ["volume_id"], "settled = 0" if sqlite else "NOT settled")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(
        name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
