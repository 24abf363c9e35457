"""Where this host gets Debian's packages, said for another suite.

The lab adds no address of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import program
from harness.errors import LabError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TARGET_FORMAT = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)"
POCKETS = ("", "-updates", "-security")
PASSED_ON = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")


@dataclass(frozen=True, slots=True)
class Archive:
    """One of Debian's archives: its address, and which pocket of a suite lies there."""

    uri: str
    pocket: str


def parse_targets(lines: Iterable[str], host_suite: str) -> list[Archive]:
    """Pick Debian's own archives out of apt's index targets, third parties left out."""
    found: dict[Archive, None] = {}
    for line in lines:
        words = line.split()
        if len(words) != 4 or words[2:] != ["main", "Debian"]:
            continue
        pocket = words[1].removeprefix(host_suite)
        if words[1].startswith(host_suite) and pocket in POCKETS:
            found[Archive(words[0], pocket)] = None
    return list(found)


def _host_suite() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise LabError("/etc/os-release names no Debian suite.", hint="The lab needs Debian 12 or 13.")


def _host_archives() -> list[Archive]:
    targets = program.output(
        ["apt-get", "indextargets", "--format", TARGET_FORMAT, "Created-By: Packages"]
    )
    return parse_targets(targets.splitlines(), _host_suite())


def lines_for(suite: str) -> str:
    """Return one-line apt sources of `suite`, from the archives that the host uses."""
    archives = _host_archives()
    if not archives:  # the lists of a fresh machine or a container are often empty
        program.output(["apt-get", "update"])
        archives = _host_archives()
    if not any(archive.pocket == "" for archive in archives):
        raise LabError("This host's apt sources name no Debian archive to build the guests from.")
    # The lists of Debian's next release say until when they are to be used, a week, and a cache may
    # be older. What they name is checked as ever.
    options = ["check-valid-until=no"]
    if KEYRING.exists():
        options.append(f"signed-by={KEYRING}")
    settings = f"[{' '.join(options)}]"
    return "".join(f"deb {settings} {each.uri} {suite}{each.pocket} main\n" for each in archives)


def passed_on_options() -> list[str]:
    """Return the host's apt settings about proxies and certificates, as lines of apt.conf."""
    dump = program.output(["apt-config", "dump", "Acquire"]).splitlines()
    return [line for line in dump if line.startswith(PASSED_ON) and not line.endswith(' "";')]
