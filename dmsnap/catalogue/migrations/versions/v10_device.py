"""What a volume's device had when it was last looked at, where that is more than the volume."""

import sqlalchemy as sa
from alembic import op

revision = "10"
down_revision = "9"


def upgrade() -> None:
    op.add_column("volume", sa.Column("device_bytes", sa.BigInteger))
