"""CHAP users and secrets, in a file that root alone can read: one table for each iSCSI target."""

import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from dmsnap.errors import ConfigurationError
from dmsnap.host.iscsi import Chap
from dmsnap.secret import Secret

KEYS = ("user", "secret", "target_user", "target_secret")


def chap_of(path: Path, target: str) -> Chap | None:
    """What to log in to ``target`` with; None where the file or the target's table is missing."""
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"{path} holds secrets and has the mode {stat.S_IMODE(mode):04o}: others can read "
                f"or write it",
                hint=f"chmod 600 {path}",
            )
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # What the parser says could quote a secret.
        raise ConfigurationError(f"{path} is no TOML{_place(error)}") from None
    return _chap(path, target, tables[target]) if target in tables else None


def _place(error: Exception) -> str:
    found = str(error).rpartition(" (at ")[2]
    return f": {found.removesuffix(')')}" if found.startswith("line ") else ""


def _chap(path: Path, target: str, table: object) -> Chap:
    if not isinstance(table, Mapping) or not {"user", "secret"} <= set(table) <= set(KEYS):
        raise ConfigurationError(
            f'{path}: the table ["{target}"] must have user and secret, and may have target_user '
            f"and target_secret"
        )
    for key, value in table.items():
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ConfigurationError(f'{path}: {key} of ["{target}"] must be a text of one line')
    if ("target_user" in table) is not ("target_secret" in table):
        raise ConfigurationError(
            f'{path}: target_user and target_secret of ["{target}"] go together'
        )
    back = table.get("target_secret")
    return Chap(
        table["user"], Secret(table["secret"]), table.get("target_user", ""),
        Secret(back) if back else None,
    )  # fmt: skip
