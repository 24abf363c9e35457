"""Volumes whose front is the logical volume itself until the next boot."""

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"


def upgrade() -> None:
    op.add_column("volume", sa.Column("live", sa.JSON(none_as_null=True)))
