"""``/etc/dmsnap/dmsnap.toml``: defaults for everything a command does not say."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from dmsnap.catalogue.database import Place
from dmsnap.errors import ConfigurationError
from dmsnap.secret import Secret
from dmsnap.units import GIB, MIB

DEFAULT_PATH = Path("/etc/dmsnap/dmsnap.toml")
PATH_VARIABLE = "DMSNAP_CONFIG"
CATALOGUE_SCHEME = "postgresql+psycopg://"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What can be set, with its defaults. Unknown keys are mistakes."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    state_directory: Path = Path("/var/lib/dmsnap")
    run_directory: Path = Path("/run/dmsnap")
    store: str | None = None
    cow_percent: Annotated[int, Ge(1), Le(110)] = 20
    cow_limit_bytes: Annotated[int, Ge(16 * MIB)] | None = None
    spare_from_bytes: Annotated[int, Ge(0)] = 4 * GIB
    window_deadline_ms: Annotated[int, Ge(50), Le(60000)] = 5000
    lock_wait_seconds: Annotated[float, Ge(0)] = 30.0
    unmount_wait_seconds: Annotated[float, Ge(0)] = 10.0
    primary_wait_seconds: Annotated[float, Ge(0.1)] = 10.0
    kill_wait_seconds: Annotated[float, Ge(0)] = 10.0
    boot_wait_seconds: Annotated[float, Ge(0)] = 60.0
    session_wait_seconds: Annotated[int, Ge(1), Le(86400)] = 60
    iscsi_secrets: Path = Path("/etc/dmsnap/iscsi.toml")
    # A URL, with a password perhaps: it is shown by nothing that shows the configuration.
    catalogue: str | None = field(default=None, repr=False)

    @property
    def default_store(self) -> str:
        """Where points go unless ``--store`` says otherwise."""
        return self.store or str(self.state_directory / "store")

    @property
    def catalogue_place(self) -> Place:
        """The URL of the catalogue; the path of an SQLite file where there is none."""
        return Secret(self.catalogue) if self.catalogue else self.state_directory / "catalogue.db"


def load(path: Path | None = None) -> Configuration:
    """Read the configuration; a missing file at the default place means the defaults."""
    chosen = path or Path(os.environ.get(PATH_VARIABLE, DEFAULT_PATH))
    try:
        with chosen.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        if chosen == DEFAULT_PATH:
            return Configuration()
        raise ConfigurationError(f"the configuration file {chosen} does not exist") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{chosen}: {error}") from error
    return validate(chosen, values)


def validate(path: Path, values: dict[str, object]) -> Configuration:
    """``values`` as a configuration; :class:`ConfigurationError` names all mistakes at once."""
    # Imported where there is a file to check: it takes a third of a command's start.
    from pydantic import TypeAdapter, ValidationError

    mistakes = list(catalogue_mistakes(values))
    try:
        checked = TypeAdapter(Configuration).validate_python(values)
    except ValidationError as error:
        mistakes += [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        ]
    if mistakes:
        # Without a cause: pydantic's error has the values in it.
        raise ConfigurationError(f"{path}: {'; '.join(mistakes)}") from None
    return checked


def catalogue_mistakes(values: Mapping[str, object]) -> Iterator[str]:
    """What is no URL of a database that dmsnap knows. It is not quoted: a password may be in it."""
    url = values.get("catalogue")
    if isinstance(url, str) and not url.startswith(CATALOGUE_SCHEME):
        yield f"catalogue: it must begin with {CATALOGUE_SCHEME}; left out, it is an SQLite file"
