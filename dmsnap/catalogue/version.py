"""The version of the catalogue's tables: apart from them, whose import takes SQLAlchemy's."""

# With another one goes a module in migrations/versions that leads to it.
VERSION = "13"

FIND = "SELECT version_num FROM schema_version"
