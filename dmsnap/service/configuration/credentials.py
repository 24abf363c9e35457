"""CHAP users and secrets, in a file that root alone can read: one table for each iSCSI target."""

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from dmsnap.errors import ConfigurationError
from dmsnap.host import trust
from dmsnap.host.iscsi import Chap
from dmsnap.secret import Secret

KEYS = ("user", "secret", "target_user", "target_secret")


def chap_of(path: Path, target: str) -> Chap | None:
    """What to log in to ``target`` with; None where the file or the target's table is missing."""
    try:
        with path.open("rb") as file:
            _require_private(path, os.fstat(file.fileno()))
            tables = tomllib.loads(file.read().decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # What the parser says could quote a secret.
        raise ConfigurationError(f"{path} is no TOML{_place(error)}") from None
    return _chap(path, target, tables[target]) if target in tables else None


def _require_private(path: Path, status: os.stat_result) -> None:
    """Of the file that is open: another one may have its name a moment later."""
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"{path} holds secrets and has the mode {stat.S_IMODE(status.st_mode):04o}: others can "
            f"read or write it",
            hint=f"chmod 600 {path}",
        )
    if (doubt := trust.doubt_about(status)) is not None:
        raise ConfigurationError(f"{path} holds secrets and {doubt}", hint=f"chown root {path}")


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
