"""What people say of points: until when each is to stay, and a comment."""

import sqlalchemy as sa
from alembic import op

revision = "12"
down_revision = "11"


def upgrade() -> None:
    op.add_column("point", sa.Column("expires_ns", sa.BigInteger))
    op.add_column("point", sa.Column("comment", sa.Text))
