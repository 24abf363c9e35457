"""The configuration as it would be written: what ``config show`` shows."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath

from dmsnap.catalogue import database
from dmsnap.service.configuration.configuration import NOUNS
from dmsnap.service.configuration.configuration_check import Checked
from dmsnap.service.configuration.declared_value import Duration, Size

Values = Mapping[str, object]


def values_of(checked: Checked) -> tuple[Values, dict[str, dict[str, Values]]]:
    """The settings, and the tables of each noun by their names; what is not set is left out."""
    tables = {
        noun: {name: _table(table) for name, table in getattr(checked.declared, noun).items()}
        for noun in NOUNS
    }
    settings = dict(_table(checked.settings))
    if checked.settings.catalogue is not None:  # a password may be in the URL
        settings["catalogue"] = database.at(checked.settings.catalogue_place).name
    return settings, tables


def _table(value: object) -> Values:
    assert is_dataclass(value)  # noqa: S101 - all that is declared is
    members = {each.name: getattr(value, each.name) for each in fields(value)}
    return {name: _plain(member) for name, member in members.items() if member is not None}


def _plain(value: object) -> object:
    """``value`` as TOML knows it: texts, numbers, lists and tables."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Duration, Size, PurePath)):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return _table(value) if is_dataclass(value) else value
