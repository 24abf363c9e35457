"""The configuration."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dmsnap.cli.output import Output, Text
from dmsnap.errors import ExitCode
from dmsnap.service.configuration import configuration_check
from dmsnap.service.configuration.configuration_check import Checked
from dmsnap.service.configuration.configuration_text import Values, values_of
from dmsnap.service.schedules import schedule
from dmsnap.service.schedules.schedule import Change

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def check(output: Output, *, path: Path | None) -> ExitCode:
    checked = configuration_check.check(path)
    result = {
        "ok": checked.ok,
        "files": checked.files,
        "mistakes": checked.mistakes,
        "notes": checked.notes,
    }
    output.show(result, lambda _: describe_checked(checked))
    return ExitCode.OK if checked.ok else ExitCode.CONFIGURATION


def describe_checked(checked: Checked) -> Iterator[Text]:
    yield from map(str, checked.mistakes)
    yield from checked.notes
    if checked.ok:
        yield f"no mistakes in {', '.join(checked.files) or 'the defaults: there is no file'}"
    else:
        number = len(checked.mistakes)
        yield f"{number} mistake{'s' if number > 1 else ''}"


def apply(output: Output, *, dry_run: bool) -> None:
    """People see what is about to be done; a program reads what was done."""
    found = schedule.pending()
    result = [
        {"unit": each.unit, "action": each.action, "difference": each.difference()}
        for each in found
    ]
    if output.json and not dry_run:
        schedule.apply(found)
    output.show(result, lambda _: describe_changes(found))
    if not output.json and not dry_run:
        schedule.apply(found)


def describe_changes(found: Sequence[Change]) -> Iterator[Text]:
    for change in found:
        yield from change.difference()
    if not found:
        yield "every timer is as the configuration says"


def show(output: Output, *, path: Path | None) -> None:
    checked = configuration_check.require(path)
    settings, tables = values_of(checked)
    result = {"files": checked.files, "settings": settings, **tables}
    output.show(result, lambda _: describe_shown(checked.files, settings, tables))


def describe_shown(
    files: tuple[str, ...], settings: Values, tables: Mapping[str, Mapping[str, Values]]
) -> Iterator[Text]:
    yield from (f"# {file}" for file in files)
    yield from _table(settings)
    for noun, named in tables.items():
        for name, table in named.items():
            yield ""
            yield f"[{noun}.{_key(name)}]"
            yield from _table(table)


def _table(table: Values) -> Iterator[str]:
    return (f"{_key(key)} = {_value(value)}" for key, value in table.items())


def _key(text: str) -> str:
    return text if _BARE.fullmatch(text) else _value(text)


def _value(value: object) -> str:
    """A value as TOML writes it: JSON, but for tables and one character."""
    if isinstance(value, dict):
        return f"{{ {', '.join(_table(value))} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
