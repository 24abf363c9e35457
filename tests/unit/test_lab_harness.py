"""The lab's own parts, without booting anything."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from harness import (
    apt_sources,
    arguments,
    initramfs,
    pip_settings,
    program,
    python_layers,
    qemu,
    tree,
    uml,
)
from harness.cable import cable
from harness.cache import CONTENT, STAMP, Layers, fingerprint, key_of, key_of_files
from harness.errors import LabError
from harness.guest import Guest, Stock, run_directory, write_command
from harness.jail import PROC, Jail, Mount, tmpfs
from harness.kernels import KERNELS
from harness.machine import give_way
from harness.processor import processor
from harness.report import Report

QUIET = Report(verbose=False)
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    """Return an empty cache."""
    return Layers(tmp_path, QUIET)


class Builder:
    """Fills a layer and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, content: Path) -> None:
        self.calls += 1
        (content / "directory").mkdir()
        (content / "directory" / "file").write_text("content")
        (content / "link").symlink_to("directory/file")


def test_a_key_changes_with_every_part_and_border() -> None:
    keys = {
        key_of("a", "b"),
        key_of("ab"),
        key_of("a", "b", ""),
        key_of("a", "c"),
        key_of("b", "a"),
    }
    assert len(keys) == 5
    assert key_of("a", "b") == key_of(b"a", "b")


def test_a_key_of_files_changes_with_name_mode_and_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    keys = [key_of_files([file], tmp_path)]
    file.write_text("two")
    keys.append(key_of_files([file], tmp_path))
    file.chmod(0o755)
    keys.append(key_of_files([file], tmp_path))
    moved = file.rename(tmp_path / "moved")
    keys.append(key_of_files([moved], tmp_path))
    assert len(set(keys)) == 4


def test_a_layer_is_built_once(layers: Layers) -> None:
    build = Builder()
    first = layers.obtain("kind", "key", build)
    assert layers.obtain("kind", "key", build) == first
    assert build.calls == 1
    assert (first / "link").read_text() == "content"


def _delete(content: Path) -> None:
    (content / "directory" / "file").unlink()


def _truncate(content: Path) -> None:
    os.truncate(content / "directory" / "file", 3)


def _lose_stamp(content: Path) -> None:
    (content.parent / STAMP).unlink()


def _garble_stamp(content: Path) -> None:
    (content.parent / STAMP).write_bytes(b"\xff\xfe")


def _add(content: Path) -> None:
    (content / "stray").touch()


def _lose_content(content: Path) -> None:
    content.rename(content.with_name("elsewhere"))


@pytest.mark.parametrize(
    "damage", [_delete, _truncate, _lose_stamp, _garble_stamp, _add, _lose_content]
)
def test_a_damaged_layer_is_built_again(layers: Layers, damage: Callable[[Path], None]) -> None:
    build = Builder()
    content = layers.obtain("kind", "key", build)
    sound = fingerprint(content)
    damage(content)
    assert fingerprint(layers.obtain("kind", "key", build)) == sound
    assert build.calls == 2


def test_a_failed_build_leaves_nothing(layers: Layers) -> None:
    def fail(content: Path) -> None:
        (content / "half").touch()
        raise LabError("It broke.")

    with pytest.raises(LabError, match="It broke"):
        layers.obtain("kind", "key", fail)
    assert list((layers.directory / "kind").iterdir()) == []


def test_what_a_killed_build_left_is_swept(layers: Layers) -> None:
    leftover = layers.directory / "kind" / ".making-dead" / CONTENT
    leftover.mkdir(parents=True)
    layers.obtain("kind", "key", Builder())
    assert not leftover.exists()


def test_two_runs_at_once_build_a_layer_once(layers: Layers) -> None:
    build = Builder()

    def slowly(content: Path) -> None:
        time.sleep(0.2)
        build(content)

    threads = [
        threading.Thread(target=layers.obtain, args=("kind", "key", slowly)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.calls == 1


def test_old_layers_are_pruned_unless_a_guest_runs_from_them(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from harness.cache import Layers\n"
    hold += "from harness.report import Report\n"
    hold += (
        f"Layers(Path({str(tmp_path)!r}), Report(False)).obtain('kind', '0', lambda each: None)\n"
    )
    hold += "print('held', flush=True); time.sleep(3600)\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(tree.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            for number in range(1, 6):
                # A process of its own each, since one holds what it uses to its end.
                script = hold.replace("'0'", f"'{number}'").replace("time.sleep(3600)", "")
                subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        finally:
            holder.kill()
    left = {path.name for path in (tmp_path / "kind").iterdir()}
    assert left == {"0", "2", "3", "4", "5"}


@pytest.mark.parametrize(
    ("words", "command", "init"),
    [
        (["true"], ("true",), "minimal"),
        (["--systemd", "ls", "--all"], ("ls", "--all"), "systemd"),
        (["--udev", "--", "ls"], ("ls",), "udev"),
        (["--shell"], ("bash",), "minimal"),
    ],
)
def test_options_end_where_the_command_begins(
    words: list[str], command: tuple[str, ...], init: str
) -> None:
    options = arguments.parse(words)
    assert (options.command, options.init) == (command, init)


def test_every_option_is_parsed() -> None:
    words = "--kernel deb13 --memory 512 --timeout 9 --env A=b=c --env D= --out o --scratch s x"
    options = arguments.parse(words.split())
    assert (options.kernel.suite, options.kernel.machine) == ("trixie", "qemu")
    assert (options.memory_mib, options.timeout_seconds) == (512, 9)
    assert options.environment == {"A": "b=c", "D": ""}
    assert (options.out, options.scratch) == (Path("o"), Path("s"))


@pytest.mark.parametrize(
    "words",
    ["", "--kernel uml11 x", "--memory 0 x", "--timeout x x", "--env A x", "--systemd --udev x"],
)
def test_a_wrong_command_line_ends_with_status_2(words: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        arguments.parse(words.split())


def test_only_debians_own_archives_are_used() -> None:
    lines = [
        "http://a/debian bookworm main Debian",
        "http://a/debian bookworm-updates main Debian",
        "http://a/security bookworm-security main Debian",
        "http://a/debian bookworm contrib Debian",
        "http://b/ bookworm main Vendor",
        "http://c/ bookworm-backports main Debian",
        "http://d/ x main",
    ]
    found = apt_sources.parse_targets(lines, "bookworm")
    assert [each.pocket for each in found] == ["", "-updates", "-security"]
    assert found[2].uri == "http://a/security"


def test_pip_settings_name_the_hosts_files_as_the_jail_sees_them(tmp_path: Path) -> None:
    lines = [
        ":env:.timeout='9'",
        "global.timeout='5'",
        f"global.find-links='{tmp_path} /not/there'",
        "global.extra-index-url='file:///x/simple\\nhttps://y/simple'",
        "global.user='true'",
    ]
    found = pip_settings.parse_config(lines)
    assert found == {
        "PIP_TIMEOUT": "9",
        "PIP_FIND_LINKS": f"{pip_settings.HOST}{tmp_path} /not/there",
        "PIP_EXTRA_INDEX_URL": f"file://{pip_settings.HOST}/x/simple https://y/simple",
    }


def test_pip_in_a_jail_trusts_whom_the_host_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "ca-certificates.crt"
    monkeypatch.setattr(pip_settings, "SYSTEM_CERTIFICATES", store)
    assert pip_settings.trusting_as_the_host({}) == {}
    store.touch()
    trusted = {"PIP_CERT": f"{pip_settings.HOST}{store}"}
    assert pip_settings.trusting_as_the_host({}) == trusted
    for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert pip_settings.trusting_as_the_host({name: "/own"}) == {name: "/own"}


@pytest.mark.skipif(
    not list(pip_settings.WHEELS.glob("pip-*.whl")), reason="python3-pip-whl is not installed"
)
def test_pip_settings_of_a_host_whose_python_has_no_pip(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text("[global]\ntimeout = 7\n")
    lab = str(Path(pip_settings.__file__).parents[1])
    code = "from harness import pip_settings; print(pip_settings.environment({})['PIP_TIMEOUT'])"
    done = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": lab},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "7\n", done.stderr


def _checkout(directory: Path) -> Path:
    (directory / "dmsnap").mkdir()
    (directory / "dmsnap" / "a.py").write_text("a = 1\n")
    (directory / "dmsnap" / "left.so").touch()
    (directory / "docs").mkdir()
    (directory / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["b"]\n[project]\ndependencies = ["r"]\n'
        '[project.optional-dependencies]\nlab = ["l"]\ntest = ["t"]\ndev = ["d"]\n'
    )
    return directory


def test_requirements_are_those_to_build_run_and_test(tmp_path: Path) -> None:
    assert python_layers.requirements(_checkout(tmp_path)) == ["b", "l", "r", "t", "wheel"]


def test_an_unreadable_pyproject_is_told(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"pyproject\.toml .* cannot be read"):
        python_layers.requirements(tmp_path)


def test_sources_leave_out_what_builds_leave_behind(tmp_path: Path) -> None:
    above = tmp_path / "build"  # a name that is left out below the checkout, not above it
    above.mkdir()
    names = [path.name for path in python_layers.sources(_checkout(above))]
    assert names == ["pyproject.toml", "a.py"]


def test_package_lists_have_no_comments_and_both_suites_differ_in_key() -> None:
    assert not [name for name in tree.packages("bookworm") if " " in name or "#" in name]
    assert tree.key("bookworm") != tree.key("trixie")


def test_a_jail_binds_its_command_to_us_and_to_namespaces_of_its_own(tmp_path: Path) -> None:
    mounts = (PROC, tmpfs("/tmp", 5), Mount("ro", "/a b", "/c"))  # noqa: S108 - inside a jail
    argv = Jail(Path("/tree"), tmp_path, mounts).argv(["echo", "--", "x"])
    assert argv[:3] == ["setpriv", "--pdeathsig", "KILL"]
    assert "--kill-child" in argv
    expected = ["proc", "-", "/proc", "tmpfs", "5M", "/tmp", "ro", "/a b", "/c", "--", "echo"]  # noqa: S108
    assert argv[-13:] == [*expected, "--", "x"]


def test_a_failing_program_is_quoted(tmp_path: Path) -> None:
    script = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    with pytest.raises(LabError, match=r"(?s)the script ended with status 3:.*out.*err"):
        program.output(script, named="the script")
    with pytest.raises(LabError, match="is not installed"):
        program.output([str(tmp_path / "nothing")])


def test_programs_get_a_scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    assert "SECRET" not in program.output(["env"])


def test_an_initial_ram_disk_is_a_cpio_archive() -> None:
    data = initramfs.archive([initramfs.Entry("a/b", 0o644, b"12345")])
    assert data.startswith(b"070701")
    assert len(data) % 4 == 0
    assert data.count(b"070701") == 3
    assert b"a\0" in data
    assert b"12345\0" in data
    assert b"TRAILER!!!" in data


def test_a_command_reaches_the_guest_word_for_word(tmp_path: Path) -> None:
    words = ["printf", "%s|", "a b", "$HOME", "'", "x\ny"]
    write_command(tmp_path, words, {"GREETING": "it's $me"}, {"LAB_X": "1 2"})
    script = (tmp_path / "command").read_text().replace("cd /src || exit 125\n", "")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "a b|$HOME|'|x\ny|"
    facts = f". {tmp_path}/boot.conf && echo $LAB_X"
    assert subprocess.run(["sh", "-c", facts], capture_output=True, check=True).stdout == b"1 2\n"
    assert """export GREETING='it'"'"'s $me'""" in script


def test_a_run_leaves_nothing_and_sweeps_what_killed_runs_left(tmp_path: Path) -> None:
    dead = tmp_path / "run-dead"
    dead.mkdir()
    (dead / "scratch.img").touch()
    with run_directory(tmp_path, None) as run, run_directory(tmp_path, None) as other:
        assert not dead.exists()
        assert run.work.is_dir()
        assert other.path != run.path
        assert run.scratch.parent == run.path
    assert list(tmp_path.iterdir()) == []


def test_a_program_ends_with_the_runner() -> None:
    ours, theirs = socket.socketpair()
    start = "import subprocess, sys, time; from harness.program import BOUND_TO_US\n"
    start += "program = [*BOUND_TO_US, 'sh', '-c', 'echo started; exec sleep 3600']\n"
    start += "subprocess.Popen(program, pass_fds=[int(sys.argv[1])]); time.sleep(3600)\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(tree.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", start, str(theirs.fileno())],
        env=environment,
        stdout=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
    ) as runner:
        theirs.close()
        assert runner.stdout is not None
        runner.stdout.readline()
        runner.send_signal(signal.SIGKILL)
    with ours:
        ours.settimeout(120)
        assert ours.recv(1) == b""  # the last holder of the other end is gone


def test_a_cable_carries_packets_and_drops_those_for_nobody() -> None:
    with cable() as (one, other):
        one.socket.send(b"there")
        assert other.socket.recv(100) == b"there"
        other.socket.send(b"and back")
        assert one.socket.recv(100) == b"and back"
        for _ in range(20_000):  # more than any queue holds
            one.socket.send(bytes(1500))
        other.socket.send(b"still")
        assert one.socket.recv(100) == b"still"
        other.drain()
    with pytest.raises(OSError, match="descriptor"):
        one.socket.send(b"cut")


def test_guests_are_spread_over_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    with ExitStack() as guests:
        assert [guests.enter_context(processor(tmp_path)) for _ in range(4)] == [3, 5, 3, 5]
    with processor(tmp_path) as number:
        assert number == 3


def test_guests_beyond_what_is_counted_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with ExitStack() as guests:
        assert [guests.enter_context(processor(tmp_path)) for _ in range(20)] == [0] * 20


@pytest.mark.parametrize(("niceness", "group"), [(10, "10\n"), (0, "")])
def test_a_session_gives_way_as_much_as_who_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, niceness: int, group: str
) -> None:
    autogroup = tmp_path / "7" / "autogroup"
    autogroup.parent.mkdir()
    autogroup.touch()
    monkeypatch.setattr(os, "getpriority", lambda *_: niceness)
    give_way(7, tmp_path)
    assert autogroup.read_text() == group
    give_way(8, tmp_path)  # of a kernel without them


@pytest.mark.skipif(
    not AUTOGROUP.exists() or AUTOGROUP.read_text().strip() != "1", reason="no autogroup here"
)
def test_what_runs_in_what_is_left_leaves_its_callers_session_as_it_is() -> None:
    script = Path(__file__).resolve().parents[2] / ".ci" / "in-what-is-left"
    seen = "cat /proc/self/autogroup"
    completed = subprocess.run(
        ["bash", "-c", f"{script} {seen}; {seen}; {script} sh -c 'exit 3'"],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert [line.split()[-1] for line in completed.stdout.splitlines()] == ["19", "0"]
    assert completed.returncode == 3


def test_a_plug_is_a_network_device_of_user_mode_linux_alone(tmp_path: Path) -> None:
    with cable() as (plug, _), run_directory(tmp_path, None) as run:
        guest = Guest(
            KERNELS["uml12"], "minimal", 512, tmp_path, tmp_path, tmp_path, tmp_path, plug=plug
        )
        (word,) = [word for word in uml.argv(guest, run, 5) if word.startswith("vec0:")]
        assert word == f"vec0:transport=fd,fd={plug.socket.fileno()},mac=02:00:00:00:00:01"
        assert not [word for word in uml.argv(replace(guest, plug=None), run, 5) if "vec0" in word]
        stock = replace(guest, kernel=KERNELS["deb12"], stock=Stock(tmp_path, tmp_path))
        with pytest.raises(LabError, match="no socket for a network cable"):
            qemu.argv(stock, run, 5)
