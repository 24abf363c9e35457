"""What hooks wrote, and what went back to pools."""

import sqlalchemy as sa
from alembic import op

revision = "8"
down_revision = "7"


def upgrade() -> None:
    op.create_table(
        "released",
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("volume", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("mark", sa.Text, nullable=False),
        sa.Column("released_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "hook_run",
        sa.Column("job_id", sa.Integer, sa.ForeignKey("job.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("hook", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("failed", sa.Boolean, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("output", sa.Text, nullable=False),
    )
    op.create_index("hook_run_of", "hook_run", ["hook", "job_id"])
