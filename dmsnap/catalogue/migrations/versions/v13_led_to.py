"""Which devices recorded paths led to: after a boot a kernel name may be another device's."""

import sqlalchemy as sa
from alembic import op

revision = "13"
down_revision = "12"


def upgrade() -> None:
    op.add_column("volume", sa.Column("led_to", sa.JSON(none_as_null=True)))
    op.add_column("export", sa.Column("led_to", sa.Text))
    op.add_column("released", sa.Column("led_to", sa.Text))
