"""What people say of points: until when each is to stay, and a comment."""

import sqlalchemy as sa
from alembic import op

revision = "11"
down_revision = "10"


def upgrade() -> None:
    op.add_column("point", sa.Column("expires_ns", sa.BigInteger))
    op.add_column("point", sa.Column("comment", sa.Text))
