"""/etc/fstab: what is mounted at boot, and from where (fstab(5))."""

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsnap.host.locks import moment_lock
from dmsnap.host.mountinfo import split_options, unescape
from dmsnap.host.replacement import remove_leftovers, replace_file
from dmsnap.host.system_call import system_call

FSTAB = Path("/etc/fstab")
LOCK_SECONDS = 10.0

# Tags that name a device whatever is on it. UUID= and LABEL= name what is on it.
_LINKS = {"PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel", "ID": "by-id"}
_LINKS_BY_CONTENT = {"UUID": "by-uuid", "LABEL": "by-label"}

# Fields are parted by blanks and tabs alone; what else Python takes for white space is in names.
_FIELD = re.compile(r"[^ \t\r]+")
_FIRST_FIELD = re.compile(r"^([ \t]*)([^ \t\r#][^ \t\r]*)")
_FOURTH_FIELD = re.compile(
    r"^([ \t]*[^ \t\r]+[ \t]+[^ \t\r]+[ \t]+[^ \t\r]+)(?:([ \t]+)([^ \t\r]+))?"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line that mounts something."""

    spec: str
    mount_point: str
    fs_type: str
    options: tuple[str, ...]


def entries(*, path: Path | None = None) -> list[Entry]:
    """All lines that say something; none where there is no file."""
    text = _read(path or FSTAB)
    return [entry for line in text.split("\n") if (entry := parse_line(line)) is not None]


def _read(path: Path) -> str:
    with system_call(f"read {path}"):
        try:
            return path.read_bytes().decode(errors="surrogateescape")
        except FileNotFoundError:
            return ""


def parse_line(line: str) -> Entry | None:
    """One line; None for a comment or what has not the three fields that a mount needs."""
    fields = _FIELD.findall(line)
    if len(fields) < 3 or fields[0].startswith("#"):
        return None
    options = split_options(fields[3]) if len(fields) > 3 else ("defaults",)
    return Entry(unescape(fields[0]).replace('"', ""), unescape(fields[1]), fields[2], options)


def devno_of(spec: str) -> int | None:
    """The device that a path or a tag names whatever is on it; None: by content, or not there."""
    tag, equals, value = spec.partition("=")
    if equals and tag in _LINKS:
        spec = f"/dev/disk/{_LINKS[tag]}/{value}"
    if not spec.startswith("/"):
        return None
    try:
        status = os.stat(spec)  # noqa: PTH116 - as good as Path.stat, and no error for ENOTDIR
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def link_by_content(spec: str) -> Path | None:
    """The link of udev's by which systemd finds what a tag names by what is on it; None: no tag.

    What names may not have is in them as its code (systemd, ``encode_devnode_name``).
    """
    tag, _, value = spec.partition("=")
    if tag not in _LINKS_BY_CONTENT:
        return None
    escaped = "".join(
        each
        if each.isalnum() or each in "#+-.:=@_" or not each.isascii()
        else f"\\x{ord(each):02x}"
        for each in value
    )
    return Path("/dev/disk", _LINKS_BY_CONTENT[tag], escaped)


def respell(new_spec: Callable[[Entry], str | None], *, path: Path | None = None) -> list[Entry]:
    """Write other devices into the first field of lines; returns the lines as they were.

    All else of the file stays byte for byte. ``new_spec`` gives None for a line to be left alone.
    """
    changed: list[Entry] = []

    def respelled(entry: Entry, line: str) -> str:
        spec = new_spec(entry)
        if spec is None or spec == entry.spec:
            return line
        changed.append(entry)
        escaped = spec.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
        return _FIRST_FIELD.sub(lambda match: match[1] + escaped, line, count=1)

    _rewrite(respelled, path or FSTAB)
    return changed


def set_options(new_options: Callable[[Entry], Sequence[str]], *, path: Path | None = None) -> None:
    """Write other options into the fourth field of lines. All else stays byte for byte."""

    def changed(entry: Entry, line: str) -> str:
        options = tuple(new_options(entry))
        if options == entry.options:
            return line
        text = ",".join(options) or "defaults"
        return _FOURTH_FIELD.sub(lambda match: match[1] + (match[2] or " ") + text, line, count=1)

    _rewrite(changed, path or FSTAB)


def _rewrite(new_line: Callable[[Entry, str], str], path: Path) -> None:
    """One command after the other: what both have read, the second would write without the first's
    lines.
    """
    path = path.resolve()
    with moment_lock(path.parent, LOCK_SECONDS):
        text = _read(path)
        lines = [
            line if (entry := parse_line(line)) is None else new_line(entry, line)
            for line in text.split("\n")
        ]
        if "\n".join(lines) != text:
            replace_file(path, "\n".join(lines))
        else:
            remove_leftovers(path)
