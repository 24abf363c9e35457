"""The configuration file."""

from pathlib import Path

import pytest

from dmsnap.errors import ConfigurationError
from dmsnap.secret import Secret
from dmsnap.service import configuration


def load(tmp_path: Path, text: str) -> configuration.Configuration:
    path = tmp_path / "dmsnap.toml"
    path.write_text(text)
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
