"""Where a promoted volume and its former primary parted, for failback."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("volume", sa.Column("parting", sa.JSON))
