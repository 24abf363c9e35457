"""What Alembic runs: it is given the connection, in a transaction that ``migration`` began."""

from alembic import context

from dmsnap.catalogue import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.schema_version.name,
)
context.run_migrations()
