"""The whole configuration: every file read, every mistake found, all at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dmsnap.errors import ConfigurationError, DmsnapError
from dmsnap.host import systemd, trust
from dmsnap.service.configuration import (
    coherence,
    configuration,
    declared_value,
    history_extent,
    mistake,
)
from dmsnap.service.configuration.configuration import FILE, NOUNS, Configuration, Source
from dmsnap.service.configuration.declaration import NESTED, TABLES, Declarations, Policy
from dmsnap.service.configuration.mistake import Flaw, Mistake


@dataclass(frozen=True, slots=True)
class Checked:
    """What the files say as far as it is right, and what is wrong.

    A table with a flaw of its own is not among ``declared``. ``notes``: what was not checked,
    what cannot all be had, and what is wrong beside the files. ``is_scheduled``: some policy has a
    schedule, rightly or not.
    """

    files: tuple[str, ...]
    settings: Configuration
    declared: Declarations
    mistakes: tuple[Mistake, ...]
    notes: tuple[str, ...]
    is_scheduled: bool = False

    @property
    def ok(self) -> bool:
        return not self.mistakes


def check(path: Path | None = None, *, calendars: bool = True) -> Checked:
    """Check the directory ``path``, or a single file; by default what commands use.

    ``calendars``: ask systemd about each expression, which takes as long as all the rest; and look
    whether each hook would be run as its files are now.
    """
    place = path or configuration.chosen_path()
    reading = _Reading()
    reading.read(place)
    reading.declare()
    reading.relate()
    notes = (*reading.check_calendars(), *reading.doubted_hooks()) if calendars else ()
    files = tuple(str(source.path) for source in reading.sources)
    mistakes = sorted(reading.mistakes, key=lambda each: (each.file, each.line or 0, each.key))
    return Checked(
        files, reading.settings, reading.declared, tuple(mistakes), notes, reading.is_scheduled
    )


def require(path: Path | None = None) -> Checked:
    """As :func:`check` without calendars; ``ConfigurationError`` when there is any mistake."""
    checked = check(path, calendars=False)
    if not checked.ok:
        raise mistake.configuration_error(checked.mistakes)
    return checked


@dataclass(slots=True)
class _Reading:
    """What is known so far. ``legible`` are also tables with flaws, without what has them."""

    sources: list[Source] = field(default_factory=list)
    settings: Configuration = field(default_factory=Configuration)
    declared: Declarations = field(default_factory=Declarations)
    legible: Declarations = field(default_factory=Declarations)
    mistakes: list[Mistake] = field(default_factory=list)
    origins: dict[tuple[str, str], Source] = field(default_factory=dict)

    def read(self, place: Path) -> None:
        """The file with the settings first: it names the file with secrets, which is not read."""
        self._read_settings(place)
        if place.is_dir():
            self._check_directory(place)
            for path in configuration.further_files(place, self.settings.iscsi_secrets):
                self._read_further(path)

    def _read_settings(self, place: Path) -> None:
        file = place / FILE if place.is_dir() else place
        try:
            source = configuration.read_settings(place)
        except ConfigurationError as error:
            self.mistakes.append(mistake.of_error(str(file), error))
            return
        if source is not None:
            self.sources.append(source)
            self._take_settings(source)

    def _take_settings(self, source: Source) -> None:
        try:
            self.settings = configuration.settings_of(source)
        except ConfigurationError as error:
            self.mistakes += error.fields["mistakes"]  # type: ignore[arg-type]

    def _check_directory(self, directory: Path) -> None:
        doubt = trust.doubt_about(directory.stat())
        if doubt is not None:
            self.mistakes.append(Mistake(str(directory), None, "", doubt))

    def _read_further(self, path: Path) -> None:
        try:
            source = configuration.read(path)
        except ConfigurationError as error:
            self.mistakes.append(mistake.of_error(str(path), error))
            return
        self.sources.append(source)
        for key in source.settings:
            if key in configuration.setting_names():
                self._add(source, Flaw((key,), f"settings are in {FILE} alone"))
            else:
                self._add(source, mistake.of_key((key,), NOUNS))

    def declare(self) -> None:
        """Every table by itself."""
        for source in self.sources:
            for noun, tables in source.tables.items():
                for name, table in tables.items():
                    self._declare(source, noun, name, table)

    def _declare(self, source: Source, noun: str, name: str, table: object) -> None:
        earlier = self.origins.setdefault((noun, name), source)
        if earlier is not source:
            place = mistake.located(str(earlier.path), earlier.text, Flaw((noun, name), ""))
            sentence = f"is declared already, in {place.file}:{place.line}"
            self._add(source, Flaw((noun, name), sentence))
            return
        value, found = _validated(noun, name, table)
        for flaw in found:
            self._add(source, flaw)
        if not found:
            getattr(self.declared, noun)[name] = value
        if value is not None:
            getattr(self.legible, noun)[name] = value

    def relate(self) -> None:
        """What the tables say of each other."""
        names = {noun: [name for other, name in self.origins if other == noun] for noun in NOUNS}
        for flaw in (*coherence.flaws(self.declared), *coherence.dangling(self.legible, names)):
            self._add_to_table(flaw)

    @property
    def is_scheduled(self) -> bool:
        policies = [each for source in self.sources for each in _policies(source)]
        return any(isinstance(each, dict) and "schedule" in each for each in policies)

    def check_calendars(self) -> Iterator[str]:
        """Ask systemd about every calendar expression; yields why it could not be asked, and which
        policies keep more than there is room for by theirs.
        """
        expressions = list(_expressions(self.legible.policy))
        if not expressions:
            return
        wrong = set()
        try:
            for key, expression in expressions:
                if not systemd.is_calendar(expression):
                    sentence = f"{expression!r} is no calendar expression (systemd.time(7))"
                    self._add_to_table(Flaw(key, sentence))
                    wrong.add(key[1])
            policies = self.legible.policy.items()
            right = {name: policy for name, policy in policies if name not in wrong}
            yield from history_extent.notes(right)
        except DmsnapError as error:
            yield f"calendar expressions were not checked: {error}"

    def doubted_hooks(self) -> Iterator[str]:
        """Hooks that would not be run: others could have written what root would run."""
        for name, hook in self.declared.hook.items():
            try:
                trust.require_trusted_command(hook.command)
            except DmsnapError as error:
                yield f"the hook {name} would not be run: {error}"

    def _add_to_table(self, flaw: Flaw) -> None:
        noun, name = map(str, flaw.key[:2])
        self._add(self.origins[noun, name], flaw)

    def _add(self, source: Source, flaw: Flaw) -> None:
        self.mistakes.append(mistake.located(str(source.path), source.text, flaw))


def _policies(source: Source) -> Sequence[object]:
    """The tables of policies in a file, as they are written."""
    return list(source.tables.get("policy", {}).values())


def _validated(noun: str, name: str, table: object) -> tuple[object, list[Flaw]]:
    """The table as far as it can be read, or None; and what is wrong with it."""
    adapter: TypeAdapter[object] = TypeAdapter(TABLES[noun])
    flaws = list(_name_flaws(noun, name))
    try:
        return adapter.validate_python(table), flaws
    except ValidationError as error:
        place, keys, choices = (noun, name), _keys(noun), _choices(noun)
        flaws += mistake.of_validation(error.errors(), place, keys, choices)
        legible = _without(table, [each["loc"] for each in error.errors()])
    try:
        return adapter.validate_python(legible), flaws
    except ValidationError:
        return None, flaws


def _without(table: object, keys: Sequence[tuple[str | int, ...]]) -> object:
    """``table`` without some keys: those of a list take the list with them."""
    if not isinstance(table, dict):
        return table
    whole = {key[0] for key in keys if len(key) == 1 or isinstance(key[1], int)}
    left = {name: value for name, value in table.items() if name not in whole}
    for name in left:
        inner = [key[1:] for key in keys if key[0] == name]
        left[name] = _without(left[name], inner) if inner else left[name]
    return left


def _name_flaws(noun: str, name: str) -> Iterator[Flaw]:
    try:
        declared_value.name(name)
    except ValueError as error:
        yield Flaw((noun, name), str(error))


def _keys(noun: str) -> dict[str, Sequence[str]]:
    """The keys of a noun's tables, and of the tables inside them."""
    classes: dict[str, Any] = {"": TABLES[noun], **(NESTED if noun == "policy" else {})}
    return {inside: tuple(key.name for key in fields(each)) for inside, each in classes.items()}


def _choices(noun: str) -> dict[str, Sequence[str]]:
    """The words of those keys of a noun's tables that have a choice of some."""
    kinds = {key.name: key.type for key in fields(TABLES[noun])}
    return {
        name: tuple(map(str, kind))
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, StrEnum)
    }


def _expressions(policies: dict[str, Policy]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for name, policy in policies.items():
        for index, expression in enumerate(policy.schedule):
            yield ("policy", name, "schedule", index), expression
