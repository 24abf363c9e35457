"""The first version. Nothing leads to it: what is new is made as the newest version."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing: Alembic wants a first revision to begin with."""
