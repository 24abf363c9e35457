"""``/etc/dmsnap/dmsnap.toml``: defaults for everything a command does not say.

The tables that it and the other files in the directory may declare (``declaration``) are not looked
at here: a mistake in a policy must not keep a volume from being recovered.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from dmsnap.catalogue.database import Place
from dmsnap.errors import ConfigurationError
from dmsnap.host import trust
from dmsnap.secret import Secret
from dmsnap.service.configuration import plain_settings
from dmsnap.service.configuration.plain_settings import Range
from dmsnap.units import GIB, MIB

if TYPE_CHECKING:
    from dmsnap.service.configuration.mistake import Flaw

DEFAULT_DIRECTORY = Path("/etc/dmsnap")
FILE = "dmsnap.toml"
PATH_VARIABLE = "DMSNAP_CONFIG"
CATALOGUE_SCHEME = "postgresql+psycopg://"

# What is declared in tables, in any of the files; ``store`` is a setting, too, where it is a text.
NOUNS = ("store", "pool", "policy", "subclient", "hook")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What can be set, with its defaults. Unknown keys are mistakes."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    state_directory: Path = Path("/var/lib/dmsnap")
    run_directory: Path = Path("/run/dmsnap")
    store: str | None = None
    cow_percent: Annotated[int, Range(1, 110)] = 20
    cow_limit_bytes: Annotated[int, Range(16 * MIB)] | None = None
    spare_from_bytes: Annotated[int, Range(0)] = 4 * GIB
    window_deadline_ms: Annotated[int, Range(50, 60000)] = 5000
    lock_wait_seconds: Annotated[float, Range(0)] = 30.0
    unmount_wait_seconds: Annotated[float, Range(0)] = 10.0
    primary_wait_seconds: Annotated[float, Range(0.1)] = 10.0
    kill_wait_seconds: Annotated[float, Range(0)] = 10.0
    boot_wait_seconds: Annotated[float, Range(0)] = 60.0
    session_wait_seconds: Annotated[int, Range(1, 86400)] = 60
    jobs_at_once: Annotated[int, Range(1, 64)] = 4
    jobs_per_disk: Annotated[int, Range(1, 64)] = 1
    metrics_file: Path | None = None
    metrics_port: Annotated[int, Range(1, 65535)] | None = None
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


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the configuration, and what TOML makes of it."""

    path: Path
    text: str
    values: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What is no table of a noun."""
        return {key: value for key, value in self.values.items() if not _is_table(key, value)}

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The tables of each noun by their names."""
        return {key: value for key, value in self.values.items() if _is_table(key, value)}


def _is_table(key: str, value: object) -> bool:
    return key in NOUNS and isinstance(value, dict)


def setting_names() -> tuple[str, ...]:
    """Every key of the settings."""
    return tuple(each.name for each in fields(Configuration))


def load(path: Path | None = None) -> Configuration:
    """Read the settings; where there is no file at the default place, the defaults."""
    source = read_settings(path or chosen_path())
    return Configuration() if source is None else settings_of(source)


def chosen_path() -> Path:
    """The directory of the configuration, or the one file that ``DMSNAP_CONFIG`` names."""
    return Path(os.environ.get(PATH_VARIABLE, DEFAULT_DIRECTORY))


def read_settings(path: Path) -> Source | None:
    """The file with the settings. In a directory it may be missing: None."""
    if path != DEFAULT_DIRECTORY and not path.is_dir():
        return read(path)
    try:
        return read(path / FILE)
    except MissingFileError:
        return None


class MissingFileError(ConfigurationError):
    """A configuration file that is not there."""


def read(path: Path) -> Source:
    """Read and parse a file. It decides what root does: so others must not be able to write to it.

    Raises ``ConfigurationError``.
    """
    try:
        with path.open("rb") as file:
            doubt = trust.doubt_about(os.fstat(file.fileno()))
            if doubt is not None:
                raise ConfigurationError(
                    f"{path} {doubt}", hint=f"make root its owner, and chmod go-w {path}"
                )
            text = file.read().decode()
        # Imported where there is a file.
        import tomllib

        return Source(path, text, tomllib.loads(text))
    except FileNotFoundError:
        raise MissingFileError(f"the configuration file {path} does not exist") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigurationError(f"{path}: {error}") from error
    except RecursionError:
        raise ConfigurationError(f"{path}: brackets are nested too deeply") from None


def further_files(directory: Path, secrets: Path) -> list[Path]:
    """The other files of a configuration by name; hidden ones are editors', ``secrets`` is none."""
    return [
        path
        for path in sorted(directory.glob("*.toml"))
        if path.name != FILE and not path.name.startswith(".") and not _same(path, secrets)
    ]


def declares(secrets: Path, *nouns: str) -> bool:
    """Whether any file has tables of these nouns, without a look into them.

    Raises ``ConfigurationError`` for one that cannot be read: it might.
    """
    place = chosen_path()
    settings = read_settings(place)
    further = further_files(place, secrets) if place.is_dir() else []
    sources = [*([settings] if settings else []), *map(read, further)]
    return any(noun in source.tables for source in sources for noun in nouns)


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def settings_of(source: Source) -> Configuration:
    """The settings of a file; :class:`ConfigurationError` names all mistakes at once."""
    flaws = list(catalogue_flaws(source.settings))
    plain = plain_settings.read(Configuration, source.settings)
    if plain is not None and not flaws:
        return plain
    # Imported where something may be wrong: it takes a third of a command's start.
    from pydantic import TypeAdapter, ValidationError

    checked = Configuration()
    try:
        checked = TypeAdapter(Configuration).validate_python(source.settings)
    except ValidationError as error:
        flaws += validation_flaws(error.errors())
    if flaws:
        # Without a cause: pydantic's error has the values in it.
        raise refusal(source, flaws) from None
    return checked


def catalogue_flaws(values: Mapping[str, object]) -> "Iterator[Flaw]":
    """What is no URL of a database that dmsnap knows. It is not quoted: a password may be in it."""
    url = values.get("catalogue")
    if isinstance(url, str) and not url.startswith(CATALOGUE_SCHEME):
        from dmsnap.service.configuration.mistake import Flaw

        sentence = f"must begin with {CATALOGUE_SCHEME}; left out, it is an SQLite file"
        yield Flaw(("catalogue",), sentence)


def validation_flaws(errors: Sequence[Any]) -> "Iterator[Flaw]":
    """What pydantic found in the settings."""
    from dmsnap.service.configuration import mistake

    allowed = {"": (*setting_names(), *(noun for noun in NOUNS if noun != "store"))}
    return mistake.of_validation(errors, (), allowed, {})


def refusal(source: Source, flaws: "Sequence[Flaw]") -> ConfigurationError:
    """The error that names all flaws of a file, with their lines."""
    from dmsnap.service.configuration import mistake

    found = [mistake.located(str(source.path), source.text, flaw) for flaw in flaws]
    return mistake.configuration_error(found)
