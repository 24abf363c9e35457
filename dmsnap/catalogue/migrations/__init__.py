"""Where Alembic looks for what brings an earlier catalogue up: ``env`` and ``versions``."""
