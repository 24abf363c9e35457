"""Places of points, why and by whom points were deleted, by what a volume's device is known."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    op.add_column("point", sa.Column("deleted_reason", sa.Text))
    op.add_column("point", sa.Column("deleted_by", sa.Text))
    op.create_table(
        "place",
        sa.Column("point_id", sa.Text, sa.ForeignKey("point.id"), primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("since_ns", sa.BigInteger, primary_key=True),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("until_ns", sa.BigInteger),
    )
    op.create_table(
        "identifier",
        sa.Column("volume_id", sa.Text, sa.ForeignKey("volume.id"), primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("seen_ns", sa.BigInteger, nullable=False),
    )
    # What is on a recovery volume its label says, with the next sync.
    op.execute(
        "INSERT INTO place (point_id, kind, since_ns, device)"
        " SELECT point.id, 'live', point.created_ns, area.path"
        " FROM point JOIN area ON area.id = point.area_id WHERE point.deleted_ns IS NULL"
    )
