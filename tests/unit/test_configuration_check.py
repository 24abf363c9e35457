"""All mistakes of a configuration at once, each at its place."""

import json
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsnap.cli import program
from dmsnap.errors import ConfigurationError, ExitCode, ProgramError
from dmsnap.host import systemd
from dmsnap.policy.copying import Copying, Hours
from dmsnap.policy.pool import Choice
from dmsnap.policy.retention import Retention
from dmsnap.service.configuration import configuration_check
from dmsnap.service.configuration.configuration_check import Checked, check
from dmsnap.service.configuration.declaration import Make
from dmsnap.service.schedules.hooks import Phase
from dmsnap.units import MIB

GOOD = {
    "dmsnap.toml": 'cow_percent = 30\nstore = "/srv/dmsnap"\n',
    "hooks.toml": """
[hook.quiesce]
phase = "presnapshot"
command = ["/usr/local/sbin/quiesce", "--all", "a b; $(rm)"]
deadline = "30s"
""",
    "policies.toml": """
[store.fast]
volume_group = "vg0"
[pool.disks]
volumes = ["/dev/disk/by-id/a", "iscsi://192.0.2.1/iqn.x/0"]
choose = "random"

[policy.daily]
schedule = ["hourly", "*-*-* 02:00"]
store = "fast"
pool = "disks"
hooks = ["quiesce"]
primary = { keep = "2d", hourly = 24 }
copy = { hours = "22:00-06:00", delay = "1h", let_pass = 3 }
bandwidth = "50MiB"
[policy.daily.history]
keep = "7d"
minimum = 3
daily = 14

[policy.points]
schedule = "hourly"
make = "snapshot"

[subclient.databases]
volumes = ["pg", "pgwal"]
policy = "daily"
[subclient.all]
include = ["databases"]
volumes = ["srv"]
""",
}


def each_hour(_expression: str, after_seconds: int, count: int) -> list[int]:
    return [after_seconds + 3600 * number for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("history", "count"),
    [
        ('{ keep = "1d", daily = 14, weekly = 8, monthly = 12 }', None),  # 24 + 13 + 8 + 12
        ('{ keep = "2d", daily = 14, weekly = 8, monthly = 12 }', 48 + 12 + 8 + 12),
        ('{ keep = "7d" }', 66),  # no more are counted
        ("{ hourly = 65 }", None),
        ("{ hourly = 65, yearly = 1 }", 66),
    ],
)
def test_a_policy_that_keeps_more_than_a_label_holds_is_told_of(
    tmp_path: Path, history: str, count: int | None
) -> None:
    text = f'[policy.much]\nschedule = "hourly"\nhistory = {history}\n'
    checked = check(written(tmp_path, **{"policies.toml": text}))
    assert checked.ok
    if count is None:
        assert checked.notes == ()
    else:
        (note,) = checked.notes
        assert f"the policy much keeps up to {count} points on a recovery volume" in note


@pytest.fixture(autouse=True, scope="module")
def _calendars() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(systemd, "is_calendar", lambda expression: "bogus" not in expression)
        monkeypatch.setattr(systemd, "elapses", each_hour)
        yield


def written(directory: Path, **files: str) -> Path:
    directory.chmod(0o755)
    for name, text in files.items():
        path = directory / name
        path.write_text(text)
        path.chmod(0o644)
    return directory


def mistakes(directory: Path, text: str) -> list[str]:
    """What is wrong with ``policies.toml``, which is ``text``."""
    checked = check(written(directory, **{"policies.toml": text}))
    place = f"{directory}/policies.toml:"
    return [str(each).removeprefix(place) for each in checked.mistakes]


def test_what_is_right_is_read(tmp_path: Path) -> None:
    checked = check(written(tmp_path, **GOOD))
    assert checked.ok, checked.mistakes
    assert [Path(file).name for file in checked.files] == list(GOOD)
    assert checked.settings.cow_percent == 30
    assert checked.settings.default_store == "/srv/dmsnap"
    daily = checked.declared.policy["daily"]
    assert daily.primary is not None
    assert daily.primary.retention == Retention(keep_seconds=2 * 86400, hourly=24)
    assert daily.history is not None
    assert daily.history.retention == Retention(7 * 86400, minimum=3, daily=14)
    assert daily.copy is not None
    assert daily.copy.copying == Copying(3600, Hours.parse("22:00-06:00"), 3)
    assert daily.bandwidth == 50 * MIB
    assert checked.declared.policy["points"].make is Make.SNAPSHOT
    assert checked.declared.policy["points"].schedule == ("hourly",)
    assert checked.declared.pool["disks"].choose is Choice.RANDOM
    hook = checked.declared.hook["quiesce"]
    assert (hook.phase, hook.deadline, hook.required) == (Phase.PRESNAPSHOT, 30, True)


def test_what_is_shown_means_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = written(tmp_path, **GOOD)
    assert program.main(["config", "show", str(place)]) == 0
    shown = capsys.readouterr().out
    # In one file the setting ``store`` and tables of that name could not be.
    settings, tables = shown.split("\n\n", 1)
    again = tmp_path / "again"
    again.mkdir()
    written(again, **{"dmsnap.toml": settings, "tables.toml": tables})
    first, second = check(place), check(again)
    assert second.ok, second.mistakes
    assert (first.settings, first.declared) == (second.settings, second.declared)
    assert program.main(["config", "show", str(place), "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json["policy"]["daily"]["primary"]["keep"] == "2d"
    assert as_json["policy"]["daily"]["bandwidth"] == "50MiB"
    assert as_json["settings"]["cow_percent"] == 30


def test_everything_is_told_at_once_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(
        tmp_path,
        **{
            "dmsnap.toml": "cow_percent = 111\n[pool.disks]\nvolumes = []\n",
            "a.toml": "window_deadline_ms = 100\n[polcy.daily]\n",
            "b.toml": "[policy.daily]\nhooks = [\n  'quiese',\n]\nkeep = 3\nschedule = 'bogus'\n"
            "[hook.quiesce]\ncommand = 'quiesce; sync'\n",
            "c.toml": "[pool.disks]\nvolumes = ['/dev/x']\n",
            "d.toml": "[policy.x\n",
        },
    )
    assert program.main(["config", "check", str(tmp_path)]) == ExitCode.CONFIGURATION
    shown = capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines()
    assert shown == [
        "a.toml:1: window_deadline_ms: settings are in dmsnap.toml alone",
        "a.toml:2: polcy: there is no such key; did you mean policy?; allowed are store, pool, "
        "policy, subclient, hook",
        "b.toml:2: policy.daily.hooks[0]: there is no hook 'quiese'; did you mean quiesce?; "
        "allowed are quiesce",
        "b.toml:5: policy.daily.keep: there is no such key; allowed are schedule, spread, make, "
        "store, pool, primary, history, copy, hooks, audit, audit_size, bandwidth, io_class, "
        "io_level, new_volumes",
        "b.toml:6: policy.daily.schedule[0]: 'bogus' is no calendar expression (systemd.time(7))",
        "b.toml:7: hook.quiesce.phase: is missing; allowed are presnapshot, postsnapshot, "
        "precopy, postcopy, unsnap",
        'b.toml:8: hook.quiesce.command: must be a list of arguments, as ["/usr/local/sbin/quiesce"'
        ', "all"]: no shell reads it',
        "c.toml:1: pool.disks: is declared already, in dmsnap.toml:2",
        "d.toml:1: Expected ']' at the end of a table declaration, column 10",
        "dmsnap.toml:1: cow_percent: must be less than or equal to 110",
        "dmsnap.toml:3: pool.disks.volumes: must not be empty",
        "11 mistakes",
    ]
    assert program.main(["config", "check", str(tmp_path), "--json"]) == ExitCode.CONFIGURATION
    as_json = json.loads(capsys.readouterr().out)
    assert as_json["ok"] is False
    assert as_json["mistakes"][2] == {
        "file": f"{tmp_path}/b.toml", "line": 2, "key": "policy.daily.hooks[0]",
        "sentence": "there is no hook 'quiese'", "allowed": ["quiesce"], "nearest": "quiesce",
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"a\.toml:1.*dmsnap\.toml:3"):
        configuration_check.require(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bandwidth = '0'", "'0' a second is no limit"),
        ("bandwidth = '-5MiB'", "'-5MiB' is not a size; write it as 4096, 64KiB, 1GiB"),
        ("bandwidth = '99999999999TiB'", "is no limit: from 1 to"),
        ("bandwidth = 5", "5 is not a size; write it as"),
        ("primary.keep = 7", '7 is not a duration; write it as "90s", "6h", "7d"'),
        ("primary.keep = '7m'", "'7m' is not a duration"),
        ("primary.keep = '9999999w'", "is longer than 73200d"),
        ("history.daily = -1", "must be greater than or equal to 0"),
        ("history.daly = 1", "there is no such key; did you mean daily?"),
        ("primary = 3", "must be a table"),
        ("copy.hours = '22-6'", "are no hours of a day; write them as 22:00-06:00"),
        ("audit_size = '64KiB'", "'64KiB' is no sample: at least 1MiB"),
        ("audit_size = 5", "5 is not a size; write it as"),
        ("hooks = 'x'", "must be a list"),
        ("schedule = ['a\\nb']".replace("'", '"'), "is not a text of one line"),
        ("store = 3", "must be a valid string"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = mistakes(tmp_path, f"[policy.daily]\n{text}\n")
    assert found.startswith("2: policy.daily.")
    assert expected in found


PHASES = "presnapshot, postsnapshot, precopy, postcopy, unsnap"


@pytest.mark.parametrize(
    ("table", "key", "word", "expected"),
    [
        ("policy", "make", "snapshots",
         "did you mean snapshot?; allowed are snapshot, recovery-volume, both"),
        ("policy", "audit", "all", "allowed are none, sample, full"),
        ("policy", "io_class", "idel", "did you mean idle?; allowed are best-effort, idle"),
        ("policy", "new_volumes", "no", "allowed are report, protect, ignore"),
        ("pool", "choose", "best-fitt", "did you mean best-fit?; allowed are best-fit, random"),
        ("hook", "phase", "precoppy", f"did you mean precopy?; allowed are {PHASES}"),
    ],
)  # fmt: skip
def test_a_word_that_is_no_choice_is_told_with_all_that_are(
    tmp_path: Path, table: str, key: str, word: str, expected: str
) -> None:
    others = {"policy": "", "pool": "volumes = ['/x']", "hook": "command = ['/x']"}[table]
    text = f"[{table}.x]\n{others}\n{key} = '{word}'\n"
    assert mistakes(tmp_path, text) == [f"3: {table}.x.{key}: '{word}' is no choice; {expected}"]


def test_what_is_missing_is_told_with_what_may_stand_there(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "[hook.x]\n[pool.x]\n") == [
        "1: hook.x.command: is missing",
        f"1: hook.x.phase: is missing; allowed are {PHASES}",
        "2: pool.x.volumes: is missing",
    ]


@pytest.mark.parametrize("name", ["a b", "a;b", "$(x)", "-x", "ä", "a/b", "", "x" * 65])
def test_names_hold_nothing_that_a_shell_or_a_path_could_read(tmp_path: Path, name: str) -> None:
    quoted = json.dumps(name, ensure_ascii=False)
    text = f"[subclient.{quoted}]\nvolumes = ['x']\n[subclient.y]\nvolumes = [{quoted}]\n"
    found = mistakes(tmp_path, text)
    assert [each.split(": ")[0] for each in found] == ["1", "4"]
    assert all(f"{name!r} is no name" in each for each in found)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ('"/bin/true"', "must be a list of arguments"),
        ('["true"]', "'true' does not begin with a slash"),
        ('["/bin/true", 3]', "must be a valid string"),
        ('["/bin/true", "\\u0000"]', "no argument can hold a NUL"),
        ("[]", "must not be empty"),
    ],
)
def test_a_hook_is_a_list_of_arguments(tmp_path: Path, command: str, expected: str) -> None:
    (found,) = mistakes(tmp_path, f"[hook.x]\ncommand = {command}\nphase = 'unsnap'\n")
    assert found.startswith("2: hook.x.command")
    assert expected in found


words = st.sampled_from(
    ["store", "pool", "policy", "subclient", "hook", "a", "b c", "primary", "keep", "hooks",
     "volumes", "include", "command", "phase", "copy", "hours", "schedule", "cow_percent"]
)  # fmt: skip
scalars = st.integers() | st.booleans() | st.floats(allow_nan=False) | words | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(words, values, max_size=4), st.booleans())
def test_whatever_is_written_is_judged(values: dict[str, Any], settings: bool) -> None:
    text = "".join(f"{json.dumps(key)} = {as_toml(value)}\n" for key, value in values.items())
    with tempfile.TemporaryDirectory() as directory:
        name = "dmsnap.toml" if settings else "x.toml"
        checked = check(written(Path(directory), **{name: text}))
    assert [Path(file).name for file in checked.files] == [name]
    assert all(each.line is not None for each in checked.mistakes)


def as_toml(value: object) -> str:
    """One line of it, whatever it holds."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)} = {as_toml(each)}" for key, each in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return json.dumps(value).replace("Infinity", "inf")


def test_what_a_shell_would_read_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["/x", '"', "\x7f", "a\nb", "\u00e9\U0001f600", "'", "\\"]
    text = f"[hook.x]\nphase = 'unsnap'\ncommand = {as_toml(words)}\n"
    written(tmp_path, **{"hooks.toml": text})
    assert program.main(["config", "show", str(tmp_path)]) == 0
    assert tomllib.loads(capsys.readouterr().out)["hook"]["x"]["command"] == words


def test_the_password_of_the_catalogue_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "postgresql+psycopg://dmsnap:kX7-secret@server/db"
    written(tmp_path, **{"dmsnap.toml": f'catalogue = "{url}"\n'})
    for words in (["config", "show", str(tmp_path)], ["config", "show", str(tmp_path), "--json"]):
        assert program.main(words) == 0
        shown = capsys.readouterr().out
        assert "kX7-secret" not in shown
        assert "@server/db" in shown


@pytest.mark.parametrize("deadline", ["0s", "2d"])
def test_a_deadline_is_one(tmp_path: Path, deadline: str) -> None:
    text = f"[hook.x]\ncommand = ['/x']\nphase = 'unsnap'\ndeadline = '{deadline}'\n"
    assert mistakes(tmp_path, text) == [
        f"4: hook.x.deadline: '{deadline}' is no deadline: from 1s to 1d"
    ]


def test_what_does_not_exist_is_named_with_what_does(tmp_path: Path) -> None:
    text = """
[store.fast]
directory = "/srv"
[policy.daily]
store = "fats"
pool = "disks"
[subclient.a]
volumes = ["x"]
include = ["b"]
policy = "dayly"
"""
    assert mistakes(tmp_path, text) == [
        "5: policy.daily.store: there is no store 'fats'; did you mean fast?; allowed are fast",
        "6: policy.daily.pool: there is no pool 'disks'",
        "9: subclient.a.include[0]: there is no subclient 'b'; allowed are a",
        "10: subclient.a.policy: there is no policy 'dayly'; did you mean daily?; allowed are "
        "daily",
    ]


def test_sub_clients_that_include_themselves_are_named(tmp_path: Path) -> None:
    text = "".join(
        f'[subclient.{name}]\nvolumes = ["{name}"]\ninclude = ["{other}"]\n'
        for name, other in ("ab", "bc", "ca", "dd", "ea")
    )
    found = mistakes(tmp_path, text)
    assert len(found) == 2
    assert {each.split("includes itself: ")[1] for each in found} & {"d → d"}
    assert any(each.count("→") == 3 for each in found)


CONFLICT = """
[policy.one]
make = "{one}"
[policy.two]
make = "{two}"
[subclient.a]
volumes = ["pg", "x"]
policy = "one"
[subclient.b]
include = ["c"]
policy = "two"
[subclient.c]
volumes = ["pg", "y"]
"""


@pytest.mark.parametrize(
    ("one", "two", "conflict"),
    [
        ("both", "both", True), ("both", "snapshot", True), ("snapshot", "snapshot", True),
        ("snapshot", "recovery-volume", False),
    ],
)  # fmt: skip
def test_two_policies_in_conflict_for_one_volume(
    tmp_path: Path, one: str, two: str, conflict: bool
) -> None:
    found = mistakes(tmp_path, CONFLICT.format(one=one, two=two))
    assert len(found) == conflict
    for each in found:
        assert each.startswith("11: subclient.b.policy: the policy two would decide about points")
        assert each.endswith("of pg (history), as the policy one of sub-client a does") or (
            "of pg (primary)" in each
        )


def test_sub_clients_may_overlap_under_one_policy(tmp_path: Path) -> None:
    text = CONFLICT.format(one="both", two="both").replace('policy = "two"', 'policy = "one"')
    assert mistakes(tmp_path, text) == []


def test_what_says_nothing_is_a_mistake(tmp_path: Path) -> None:
    text = """
[store.none]
[store.two]
directory = "/srv"
volume_group = "vg0"
[subclient.none]
[policy.points]
make = "snapshot"
copy = { let_pass = 1 }
history = { daily = 1 }
[policy.copies]
make = "recovery-volume"
primary = { daily = 1 }
[policy.all]
audit = "full"
audit_size = "1GiB"
"""
    found = mistakes(tmp_path, text)
    assert [each.split(":")[0] for each in found] == ["2", "3", "6", "9", "10", "13", "16"]
    assert found[0] == "2: store.none: must have either directory or volume_group"
    assert found[-2].endswith('primary: means nothing where make = "recovery-volume"')
    assert found[-1].endswith('audit_size: means nothing without audit = "sample"')


def test_a_noun_is_for_tables(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "pool = 3\n") == ["1: pool: is for tables: write [pool.NAME]"]
    assert mistakes(tmp_path, "[pool]\nx = 3\n") == ["2: pool.x: must be a table"]
    checked = check(written(tmp_path, **{"dmsnap.toml": "hook = 3\n", "policies.toml": ""}))
    assert [each.sentence for each in checked.mistakes] == ["is for tables: write [hook.NAME]"]


def test_what_others_can_write_to_is_not_read(tmp_path: Path) -> None:
    written(tmp_path, **GOOD)
    (tmp_path / "policies.toml").chmod(0o664)
    tmp_path.chmod(0o777)
    found = [str(each) for each in check(tmp_path).mistakes]
    assert found[0].startswith(f"{tmp_path}: has the mode 0777, by which others can write")
    assert f"{tmp_path}/policies.toml: has the mode 0664, by which others can write to it" in found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_others_own_is_not_read(tmp_path: Path) -> None:
    written(tmp_path, **GOOD)
    os.chown(tmp_path / "dmsnap.toml", 4711, 0)
    (found,) = check(tmp_path).mistakes
    assert found.sentence == "is owned by uid 4711"


def test_secrets_and_what_an_editor_left_are_no_configuration(tmp_path: Path) -> None:
    written(
        tmp_path,
        **{
            "dmsnap.toml": f'iscsi_secrets = "{tmp_path}/chap.toml"\n',
            "chap.toml": '["iqn.x"]\nuser = "a"\nsecret = "b"\n',
            ".policies.toml": "x",
            "policies.toml~": "x",
        },
    )
    assert check(tmp_path).ok
    assert [Path(file).name for file in check(tmp_path).files] == ["dmsnap.toml"]


def test_without_systemd_expressions_are_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_expression: str) -> bool:
        raise ProgramError("the program systemd-analyze is not installed")

    monkeypatch.setattr(systemd, "is_calendar", missing)
    checked: Checked = check(written(tmp_path, **GOOD))
    assert checked.ok
    assert len([note for note in checked.notes if "not checked" in note]) == 1
    assert program.main(["config", "check", str(tmp_path)]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("calendar expressions were not checked")
    assert last.startswith("no mistakes in ")


def test_a_single_file_is_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, **GOOD)
    monkeypatch.setenv("DMSNAP_CONFIG", str(tmp_path / "hooks.toml"))
    assert check().files == (str(tmp_path / "hooks.toml"),)
    (missing,) = check(tmp_path / "none.toml").mistakes
    assert missing.sentence.endswith("does not exist")


def test_a_hook_that_would_not_be_run_is_told(tmp_path: Path) -> None:
    script = tmp_path / "quiesce.sh"
    script.write_text("true\n")
    file = tmp_path / "dmsnap.toml"
    text = f'command = ["/bin/sh", "{script}"]\nphase = "unsnap"\n'
    file.write_text(f"[hook.one]\n{text}[hook.two]\n{text}")
    assert check(file).notes == ()
    script.chmod(0o777)
    checked = check(file)
    assert [note.partition(":")[0] for note in checked.notes] == [
        "the hook one would not be run", "the hook two would not be run"
    ]  # fmt: skip
    assert "has the mode 0777" in checked.notes[0]
    assert checked.ok
