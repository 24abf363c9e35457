"""The parser is data; the actions mirror it, and are loaded when they run."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmsnap.catalogue.store import Catalogue
from dmsnap.cli import program
from dmsnap.cli.grammar import Command, Noun, resolve
from dmsnap.cli.main import main
from dmsnap.cli.parser import ROOT
from dmsnap.errors import ExitCode
from dmsnap.version import __version__


def commands(noun: Noun = ROOT, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Command]]:
    for entry in [*noun.entries(), *([noun.plain] if noun.plain else [])]:
        if isinstance(entry, Noun):
            yield from commands(entry, (*words, entry.name))
        else:
            yield " ".join((*words, entry.name)), entry


COMMANDS = dict(commands())


@pytest.mark.parametrize("words", COMMANDS)
def test_an_action_takes_what_its_command_reads(words: str) -> None:
    command = COMMANDS[words]
    names = {str(parameter.name) for parameter in command.parameters}
    if command.changes_devices:
        names.add("dry_run")
    output, *parameters = inspect.signature(resolve(command.action)).parameters.values()
    assert output.name == "output"
    assert {parameter.name for parameter in parameters} == names
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def test_the_two_trees_mirror_each_other() -> None:
    folder = Path(program.__file__).parent
    parsers = {path.stem for path in (folder / "parser").glob("*.py")}
    assert parsers == {path.stem for path in (folder / "actions").glob("*.py")}
    for words, command in COMMANDS.items():
        module = command.action.split(".")[0]
        assert module in parsers
        if " " in words:
            assert module == words.split()[0]


def test_an_entry_of_another_module_has_its_name() -> None:
    assert [each.name for each in ROOT.commands] == [entry.name for entry in ROOT.entries()]


def test_one_command_does_not_import_the_words_of_the_others() -> None:
    lines = (
        "import sys",
        "from dmsnap.cli import program",
        "program.main(['inspect', 'label', '/'])",
        "print([name for name in sys.modules if name.startswith('dmsnap.cli.parser.s')])",
    )
    command = [sys.executable, "-c", "; ".join(lines)]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_explains_itself(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = words.removesuffix(" start").split()
    assert program.main([*arguments, "--help"]) == 0
    shown = capsys.readouterr().out
    assert COMMANDS[words].summary.split()[0] in shown
    assert "--json" in shown
    assert "--debug" in shown
    assert ("--dry-run" in shown) == COMMANDS[words].changes_devices


@pytest.mark.parametrize("arguments", [[], ["--help"], ["point"], ["inspect"], ["swap"]])
def test_a_noun_alone_shows_its_verbs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(arguments) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "no such command 'fly'"),
        (["point", "fly"], "no such command 'fly'"),
        (["sync"], "missing argument 'NAME'"),
        (["sync", "srv", "--fly"], "no such option '--fly'"),
        (["sync", "srv", "--audit", "some"], "'some' is not one of 'none', 'sample', 'full'"),
        (["sync", "srv", "--cow-percent", "0"], "0 is not in the range"),
        (["inspect", "era", "/dev/null"], "missing option '--since'"),
        (["inspect", "era", "/dev/null", "--since", "-1"], "-1 is not in the range"),
        (["swap", "srv", "more"], "unexpected extra argument"),
        (["swap", "--to"], "option '--to' requires an argument"),
        (["protect", "/d", "--recovery", "/r"], "missing option '--name'"),
        (["protect", "/d", "--recovery", "/r", "--name", "n", "--chunk", "4KB"], "is not a size"),
        (["sync", "srv", "--bandwidth", "50MiB/s"], "is not a size"),
        (["sync", "srv", "--bandwidth", "0"], "nothing would ever be copied"),
        (["protect", "/d", "--recovery", "/r", "--name", "revert"], "a word of dmsnap's own"),
        (["protect", "/d", "--recovery", "/r", "--name", "commit"], "a word of dmsnap's own"),
    ],
)
def test_a_wrong_line_is_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(arguments) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    first, hint = shown.err.splitlines()
    assert first.startswith("dmsnap: ")
    # Older versions of click put a colon and no quotes.
    assert sentence.replace("'", "") in first.replace("'", "").replace("option: ", "option ")
    assert hint.startswith("hint: dmsnap ")
    assert hint.endswith(" --help says how it is used")


def test_flags_stand_anywhere_but_behind_two_dashes() -> None:
    flags = program.Flags.split(["--json", "swap", "--debug", "--", "--json"])
    assert (flags.json, flags.debug) == (True, True)
    assert flags.arguments == ("swap", "--", "--json")
    assert program.Flags.split(["status"]) == program.Flags(False, False, ("status",))


SCRIPT = """
import sys
sys.argv = ["dmsnap", {arguments}]
from dmsnap.cli.main import main
try:
    code = main()
finally:
    loaded = sorted(name for name in {modules!r} if name in sys.modules)
    print("loaded:", *loaded)
"""
HEAVY = (
    "sqlalchemy", "pydantic", "rich", "pyroute2", "pyudev", "dmsnap._native._core", "click",
    "dmsnap.catalogue.store", "dmsnap.service.session",
)  # fmt: skip


def loaded_by(*arguments: str) -> set[str]:
    words = ", ".join(repr(argument) for argument in arguments)
    script = SCRIPT.format(arguments=words, modules=HEAVY)
    completed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(completed.stdout.splitlines()[-1].split()[1:])


def test_the_version_is_told_with_nothing_loaded() -> None:
    assert loaded_by("--version") == set()


def test_help_and_usage_errors_load_no_service() -> None:
    assert loaded_by("--help") == {"click"}
    assert loaded_by("sync", "--fly") == {"click"}
    assert loaded_by("--json", "--version") == {"click"}


def test_reading_an_image_loads_no_catalogue(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(2**20))
    for command in (["era", "--since", "1"], ["store"], ["label"]):
        loaded = loaded_by("inspect", *command, str(image))
        assert "dmsnap._native._core" in loaded
        assert not loaded & {"sqlalchemy", "pydantic", "rich", "dmsnap.service.session"}


RECOVERY = """
import os, sys
from pathlib import Path
from dmsnap.cli.main import main
from dmsnap.service.configuration import configuration
settings = configuration.Configuration(state_directory=Path({directory!r}))
configuration.load = lambda: settings
os.geteuid = lambda: 0
print(main(["swap", "nothing"]), *(name for name in {modules!r} if name in sys.modules))
"""
FOR_OTHERS = (
    "sqlalchemy", "pydantic", "rich", "pyroute2", "pyudev", "asyncio", "socket", "ssl", "hashlib",
    "tempfile", "importlib.metadata",
)  # fmt: skip


def test_what_recovers_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """A swap, up to the volume that is not there: users wait for what it imports."""
    Catalogue.open(tmp_path / "catalogue.db").close()
    script = RECOVERY.format(directory=str(tmp_path), modules=FOR_OTHERS)
    completed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert completed.stdout == f"{int(ExitCode.NOT_FOUND)}\n"


@pytest.mark.parametrize("arguments", [["--version"], ["--json", "--version"]])
def test_the_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"dmsnap {__version__}\n"


def test_what_only_some_commands_need_is_not_loaded_by_all() -> None:
    """Netlink and LIO take long to import: only portals and exports need them."""
    script = (
        "import dmsnap.cli.actions.volume, sys; print({'pyroute2', 'rtslib_fb'} & {*sys.modules})"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert completed.stdout == "set()\n"
