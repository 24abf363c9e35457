"""``/etc/dmsnap/dmsnap.toml``: defaults for everything a command does not say."""

import os
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmsnap.errors import ConfigurationError

DEFAULT_PATH = Path("/etc/dmsnap/dmsnap.toml")
PATH_VARIABLE = "DMSNAP_CONFIG"


class Configuration(BaseModel):
    """What can be set, with its defaults. Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state_directory: Path = Path("/var/lib/dmsnap")
    run_directory: Path = Path("/run/dmsnap")
    store: str | None = None
    cow_percent: int = Field(default=20, ge=1, le=110)
    window_deadline_ms: int = Field(default=5000, ge=50, le=60000)
    lock_wait_seconds: float = Field(default=30, ge=0)
    unmount_wait_seconds: float = Field(default=10, ge=0)

    @property
    def default_store(self) -> str:
        """Where points go unless ``--store`` says otherwise."""
        return self.store or str(self.state_directory / "store")

    @property
    def catalogue_path(self) -> Path:
        return self.state_directory / "catalogue.db"


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
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise ConfigurationError(f"{chosen}: {mistakes}") from error
