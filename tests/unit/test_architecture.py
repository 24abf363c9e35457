"""The layers: who may import whom, and what only one layer may do (docs/ARCHITECTURE.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "dmsnap"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Higher may import lower; packages of one rank do not know each other.
RANKS = {
    "cli": 6,
    "daemon": 6,
    "service": 5,
    "recovery": 4,
    "report": 4,
    "tracking": 3,
    "snapshot": 3,
    "catalogue": 2,
    "policy": 2,
    "host": 1,
    "_native": 1,
    "extent": 0,
    "errors": 0,
    "units": 0,
    "version": 0,
    "secret": 0,
}
# The ground floor: inside it, errors know units.
GROUND = {name for name, rank in RANKS.items() if rank == 0}

# What talks to the operating system directly. window.c's watchdog is spawned in C.
HOST_ONLY = {"subprocess", "fcntl", "ctypes", "pyudev", "pyroute2", "pty", "multiprocessing"}
OS_PROGRAMS = {"system", "popen", "fork", "forkpty", "posix_spawn", "execv", "execve", "execvp"}

# The command line knows use cases, not devices; of the catalogue it borrows the wall clock, and of
# the native core the label's type, to annotate what a use case returns.
CLI_MAY_IMPORT = {"cli", "service", "errors", "units", "version"}
CLI_EXCEPTIONS = {"dmsnap.catalogue.clock", "dmsnap._native.label", "dmsnap.host.signals"}


def identity(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


def layer(path: Path) -> str:
    """The package or module directly below ``dmsnap``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, with the names taken out of a package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def ours(path: Path) -> set[str]:
    """What a module imports of dmsnap, as dotted names."""
    return {name for name in imports(parsed(path)) if name.split(".")[0] == "dmsnap"}


def imported_layers(path: Path) -> set[str]:
    return {name.split(".")[1] for name in ours(path)}


def modules(*layers: str) -> list[Path]:
    return [path for path in SOURCES if layer(path) in layers]


def test_every_layer_is_known() -> None:
    assert {layer(path) for path in SOURCES} - {"__init__"} <= set(RANKS)


@pytest.mark.parametrize("path", SOURCES, ids=identity)
def test_imports_go_downward(path: Path) -> None:
    own = layer(path)
    if own == "__init__":
        assert not imported_layers(path)
        return
    for other in imported_layers(path) - {own}:
        lower = RANKS[other] < RANKS[own] or (own in GROUND and other in GROUND)
        assert lower, f"{identity(path)} imports dmsnap.{other}"


@pytest.mark.parametrize("path", modules("cli"), ids=identity)
def test_the_command_line_enters_by_the_service_only(path: Path) -> None:
    names = {
        name
        for name in ours(path)
        if not any(name.startswith(f"{exception}.") for exception in CLI_EXCEPTIONS)
    }
    assert {name.split(".")[1] for name in names} <= CLI_MAY_IMPORT


@pytest.mark.parametrize("path", [path for path in SOURCES if layer(path) != "host"], ids=identity)
def test_only_the_host_layer_runs_programs_and_does_ioctls(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(parsed(path))} & HOST_ONLY
    assert not found
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert not (node.value.id == "os" and node.attr in OS_PROGRAMS), node.attr
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith("/sys/"), "sysfs is read and written in host/ alone"


@pytest.mark.parametrize("path", [path for path in SOURCES if layer(path) != "cli"], ids=identity)
def test_nothing_below_the_command_line_prints_prompts_or_exits(path: Path) -> None:
    ends = {"sys.exit", "os._exit", "os.abort", "sys.stdout", "sys.stderr"}
    if identity(path) == "dmsnap/host/children.py":
        ends.remove("os._exit")  # a forked child's only end
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "input", "exit", "quit"}, node.lineno
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            attribute = f"{node.value.id}.{node.attr}"
            assert attribute not in ends
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            assert not (isinstance(raised, ast.Name) and raised.id == "SystemExit"), node.lineno
    assert not {"click", "rich"} & {name.split(".")[0] for name in imports(parsed(path))}


@pytest.mark.parametrize("path", SOURCES, ids=identity)
def test_modules_are_nouns_of_the_field(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "manager", "base"}


# What a pure function does not ask for: it is given the time, the random source and the facts.
IMPURE = {"os", "pathlib", "random", "secrets", "shutil", "socket", "time", "tomllib"}


@pytest.mark.parametrize("path", modules("policy"), ids=identity)
def test_policy_does_no_io(path: Path) -> None:
    assert imported_layers(path) <= {"policy", "errors", "units", "extent"}
    tree = parsed(path)
    assert not IMPURE & {name.split(".")[0] for name in imports(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "today", "utcnow"}, node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open", node.lineno


@pytest.mark.parametrize("path", modules("report"), ids=identity)
def test_the_report_is_made_of_values_alone(path: Path) -> None:
    """Of the catalogue it borrows how times are written."""
    names = {name for name in ours(path) if name != "dmsnap.catalogue.clock.format_time"}
    assert {name.split(".")[1] for name in names} <= {"report", "units"}
    assert not IMPURE & {name.split(".")[0] for name in imports(parsed(path))}


@pytest.mark.parametrize("path", modules("daemon"), ids=identity)
def test_the_daemon_changes_volumes_by_use_cases_only(path: Path) -> None:
    assert imported_layers(path) <= {
        "daemon",
        "service",
        "policy",
        "host",
        "errors",
        "units",
        "version",
    }


@pytest.mark.parametrize("path", modules("_native", "host"), ids=identity)
def test_host_and_native_know_no_catalogue(path: Path) -> None:
    assert not imported_layers(path) & {"catalogue", "service", "recovery", "snapshot"}
    assert "sqlalchemy" not in {name.split(".")[0] for name in imports(parsed(path))}


def test_the_rules_can_be_broken() -> None:
    """The checks above look at what they claim to look at."""
    tree = ast.parse("import subprocess\nfrom dmsnap.service import swap\nimport os\n")
    assert set(imports(tree)) == {"subprocess", "dmsnap.service.swap", "os"}
    assert len(modules("service")) > 10
    assert imported_layers(PACKAGE / "service" / "replicas" / "synchronisation.py") >= {
        "recovery",
        "tracking",
        "host",
    }
