"""The configuration file."""

import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from dmsnap.errors import ConfigurationError
from dmsnap.secret import Secret
from dmsnap.service.configuration import configuration, plain_settings
from dmsnap.service.configuration.configuration import Configuration


def load(tmp_path: Path, text: str) -> configuration.Configuration:
    path = tmp_path / "dmsnap.toml"
    path.write_text(text)
    path.chmod(0o644)
    return configuration.load(path)


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    loaded = load(tmp_path, 'cow_percent = 30\nstate_directory = "/srv/state"\n')
    assert loaded.cow_percent == 30
    assert loaded.default_store == "/srv/state/store"
    assert loaded.window_deadline_ms == configuration.Configuration().window_deadline_ms


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "cow_percent = 0\nwindow_deadline_ms = 99999999\nstoer = 1\n")
    for word in ("cow_percent", "window_deadline_ms", "stoer"):
        assert word in str(caught.value)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"dmsnap\.toml"):
        load(tmp_path, "cow_percent = = 1")


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        configuration.load(tmp_path / "none.toml")


def test_a_limit_below_the_smallest_store_is_refused(tmp_path: Path) -> None:
    assert load(tmp_path, "cow_limit_bytes = 16777216\n").cow_limit_bytes == 16 << 20
    with pytest.raises(ConfigurationError, match="cow_limit_bytes"):
        load(tmp_path, "cow_limit_bytes = 4096\n")


def test_mistakes_have_their_lines_and_the_nearest_word(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "# a comment\n\ncow_percent = 111\ncow_precent = 3\n")
    first, second = str(caught.value).split("; /")
    assert first == f"{tmp_path}/dmsnap.toml:3: cow_percent: must be less than or equal to 110"
    assert "dmsnap.toml:4: cow_precent: there is no such key; did you mean cow_percent?" in second
    assert caught.value.hint == "dmsnap config check shows every mistake with its line"


def test_what_is_declared_in_tables_keeps_no_command_from_running(tmp_path: Path) -> None:
    """Not even with mistakes: the volume may have to be recovered now."""
    text = 'cow_percent = 30\n[policy.daily]\nkeeep = "7"\n[store.fast]\n'
    assert load(tmp_path, text).cow_percent == 30


def test_a_directory_may_be_empty(tmp_path: Path) -> None:
    assert configuration.load(tmp_path) == configuration.Configuration()
    load(tmp_path, "cow_percent = 30\n")
    assert configuration.load(tmp_path).cow_percent == 30


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dmsnap.toml"
    path.write_bytes(b"store = '\xff'")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="can't decode byte 0xff"):
        configuration.load(path)


def test_brackets_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        load(tmp_path, f"store = {'[' * 100000}")


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    load(tmp_path, "")
    path = tmp_path / "dmsnap.toml"
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"has the mode 0{mode:o}") as caught:
        configuration.load(path)
    assert caught.value.hint == f"make root its owner, and chmod go-w {path}"


def test_a_small_file_does_not_wait_for_the_tables(tmp_path: Path) -> None:
    """The start of a command is dominated by imports."""
    path = tmp_path / "dmsnap.toml"
    path.write_text("cow_percent = 30\n")
    path.chmod(0o644)
    program = (
        "import os, sys; from types import SimpleNamespace; "
        f"os.environ['DMSNAP_CONFIG'] = {str(tmp_path)!r}; "
        "from dmsnap.service.configuration import configuration; "
        "from dmsnap.service.replicas import sync; from dmsnap.service.schedules import hooks; "
        "settings = configuration.load(); "
        "assert not hooks.hooks_of(SimpleNamespace(configuration=settings), ['x']).named; "
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    tables = {"declaration", "declared_value", "mistake", "toml_position", "coherence"}
    package = Path(configuration.__file__).parent
    assert {path.stem for path in package.glob("*.py")} >= tables
    assert not {f"dmsnap.service.configuration.{name}" for name in tables} & set(loaded)
    assert "dmsnap.service.schedules.hooks" in loaded
    assert "dmsnap.policy" not in loaded


def test_the_catalogue_is_a_file_or_a_url(tmp_path: Path) -> None:
    loaded = load(tmp_path, 'state_directory = "/srv/state"\n')
    assert loaded.catalogue_place == Path("/srv/state/catalogue.db")
    url = "postgresql+psycopg://dmsnap@server/dmsnap"
    assert load(tmp_path, f'catalogue = "{url}"\n').catalogue_place == Secret(url)


@pytest.mark.parametrize("scheme", ["mysql", "postgres", "sqlite"])
def test_a_catalogue_in_no_database_that_is_known(tmp_path: Path, scheme: str) -> None:
    """The password is in neither the sentence nor what it was made of."""
    with pytest.raises(ConfigurationError, match="must begin with postgresql") as caught:
        load(tmp_path, f'cow_percent = 0\ncatalogue = "{scheme}://u:kX7-secret@server/db"\n')
    assert "cow_percent" in str(caught.value)
    assert "kX7-secret" not in str(caught.value)
    assert caught.value.__suppress_context__


RIGHT: list[dict[str, object]] = [
    {},
    {"state_directory": "/srv/state", "store": "/srv/store", "metrics_file": "/run/metrics"},
    {"cow_percent": 110, "cow_limit_bytes": 16 * 2**20, "window_deadline_ms": 50},
    {"lock_wait_seconds": 3, "unmount_wait_seconds": 0.5, "primary_wait_seconds": 1e9},
    {"catalogue": "postgresql+psycopg://u@h/d", "jobs_at_once": 1},
]
IN_DOUBT: list[dict[str, object]] = [
    {"cow_percent": 0},
    {"cow_percent": 111},
    {"cow_percent": True},
    {"cow_percent": 20.0},
    {"cow_percent": "20"},
    {"lock_wait_seconds": float("nan")},
    {"lock_wait_seconds": "3"},
    {"lock_wait_seconds": 10**400},
    {"primary_wait_seconds": 0},
    {"state_directory": 3},
    {"store": ["a"]},
    {"stoer": "/srv"},
    {"default_store": "/srv"},
    {"__pydantic_config__": {}},
]


@pytest.mark.parametrize("values", RIGHT)
def test_what_is_plainly_right_is_what_pydantic_makes_of_it(values: dict[str, object]) -> None:
    found = plain_settings.read(Configuration, values)
    expected = TypeAdapter(Configuration).validate_python(values)
    assert found == expected
    assert [type(each) for each in astuple(found)] == [type(each) for each in astuple(expected)]


@pytest.mark.parametrize("values", IN_DOUBT)
def test_what_is_not_plainly_right_is_for_pydantic_to_judge(values: dict[str, object]) -> None:
    assert plain_settings.read(Configuration, values) is None


def test_right_settings_take_no_pydantic(tmp_path: Path) -> None:
    path = tmp_path / "dmsnap.toml"
    path.write_text("cow_percent = 30\n")
    script = (
        "import sys; from pathlib import Path\n"
        "from dmsnap.service.configuration import configuration\n"
        "print(configuration.load(Path(sys.argv[1])).cow_percent, 'pydantic' in sys.modules)"
    )
    words = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "30 False\n"
