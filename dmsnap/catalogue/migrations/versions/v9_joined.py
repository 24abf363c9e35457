"""Volumes that runs of the default sub-client's policy have protected."""

import sqlalchemy as sa
from alembic import op

revision = "9"
down_revision = "8"


def upgrade() -> None:
    op.add_column("volume", sa.Column("joined", sa.Boolean))
