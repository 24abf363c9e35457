"""How pip inside a tree reaches packages the way that the host's pip does."""

import os
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from harness import program
from harness.errors import LabError

HOST = "/lab/host"
"""Where the host's tree lies, read-only, in the jails in which pip runs."""

CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
WHEELS = Path("/usr/share/python-wheels")
OF_THE_HOST_ALONE = (
    "user",
    "target",
    "prefix",
    "root",
    "python",
    "require-virtualenv",
    "cache-dir",
)


def _word_inside(word: str) -> str:
    if word.startswith("file:///"):
        return f"file://{HOST}{word.removeprefix('file://')}"
    return f"{HOST}{word}" if word.startswith("/") and Path(word).exists() else word


def inside(value: str) -> str:
    """Return a setting with the host's paths said as the jail sees them."""
    return " ".join(_word_inside(word) for word in value.split())


def parse_config(lines: list[str]) -> dict[str, str]:
    """Return the environment that says the same as `pip config list`.

    pip lets the environment win over its files, so those lines come last here.
    """
    found = {}
    for line in sorted(lines, key=lambda each: each.startswith(":env:")):
        name, equals, quoted = line.partition("=")
        option = name.rpartition(".")[2]
        if equals and option not in OF_THE_HOST_ALONE:
            value = " ".join(shlex.split(quoted.replace("\\n", " ")))
            found[f"PIP_{option.upper().replace('-', '_')}"] = inside(value)
    return found


def trusting_as_the_host(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings, with the host's certificates where they name none.

    That is what Debian's pip takes by itself. In the jail it would find the tree's, which know no
    authority that the host's administrator has added.
    """
    named = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    if any(name in settings for name in named) or not SYSTEM_CERTIFICATES.exists():
        return dict(settings)
    return {**settings, "PIP_CERT": inside(str(SYSTEM_CERTIFICATES))}


def _with_pip() -> dict[str, str]:
    """Return the environment in which our Python has pip.

    Without python3-pip, Debian has it as the wheel that ``python3 -m venv`` installs, which runs as
    it is.
    """
    wheels = sorted(WHEELS.glob("pip-*.whl"))
    return {} if find_spec("pip") or not wheels else {"PYTHONPATH": str(wheels[-1])}


def environment(host: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for pip in a jail where the host's root is mounted at HOST."""
    asked = {name: host[name] for name in (*CERTIFICATES, *PROXIES) if name in host}
    pip = {name: value for name, value in host.items() if name.startswith("PIP_")}
    try:
        listed = program.output(
            [sys.executable, "-m", "pip", "config", "list"], env={**asked, **pip, **_with_pip()}
        )
    except LabError:  # a host without pip has no settings of pip either, its environment apart
        listed = ""
    translated = {name: inside(value) for name, value in asked.items()}
    return {
        **trusting_as_the_host({**translated, **parse_config(listed.splitlines())}),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_NO_INPUT": "1",
    }
