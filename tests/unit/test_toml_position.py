"""In which line a key is."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.service.configuration.toml_position import line_of, lines

TEXT = '''# a comment, [not.a.table]
cow_percent = 3   # another

[policy.daily]  # behind a table
schedule = [
  "hourly",  # ] = [
  "# no comment",
]
note = """
[policy.none]
key = 1
"""
primary = { keep = "2d", inner.daily = 3 }
history.keep = '7d'
[ "hook" . "a b" ]
command = ["x"]

[[list]]
one = 1
[[list]]
two = 2
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("cow_percent", 2), ("policy", 4), ("policy/daily", 4), ("policy/daily/schedule", 5),
        ("policy/daily/note", 9), ("policy/daily/primary", 13), ("policy/daily/primary/keep", 13),
        ("policy/daily/primary/inner/daily", 13), ("policy/daily/history/keep", 14),
        ("hook/a b", 15), ("hook/a b/command", 16), ("list", 18),
        ("list/one", 19), ("list/two", 21),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_key_is_where_it_is(key: str, line: int, end: str) -> None:
    assert lines(TEXT.replace("\n", end))[tuple(key.split("/"))] == line


def test_what_is_missing_is_where_its_table_is() -> None:
    assert line_of(TEXT, ("policy", "daily", "schedule", "1")) == 5
    assert line_of(TEXT, ("hook", "a b", "phase")) == 15
    assert line_of(TEXT, ("pool", "x")) is None
    assert line_of("", ("pool",)) is None
    assert ("policy", "none") not in lines(TEXT)


VALUES = [
    "1",
    '"#"',
    "'''\n]\n'''",
    "[\n  1,\n\n  2 ]",
    "{ a = 1, b = [\n] }",
    '"""\\\n  x = 1\n"""',
]
names = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=12, unique=True)


@given(names, st.data())
def test_whatever_is_between_the_keys(keys: list[str], data: st.DataObject) -> None:
    text, expected = "", {}
    for key in keys:
        text += "\n" * data.draw(st.integers(0, 2)) + data.draw(st.sampled_from(["", "# a = [\n"]))
        header = data.draw(st.booleans())
        expected[key] = text.count("\n") + 1
        value = data.draw(st.sampled_from(VALUES))
        text += f"[{key}]\nx = {value}\n" if header else f"{key}.y = {value}\n"
        if header:
            break
    assert set(tomllib.loads(text)) == set(expected)
    assert {key[0]: line for key, line in lines(text).items() if len(key) == 1} == expected
