"""The catalogue."""

from collections.abc import Iterator

from dmsnap.catalogue.clock import format_time
from dmsnap.cli.output import Output, Text
from dmsnap.errors import ExitCode
from dmsnap.service.records import catalogue_backup, catalogue_check
from dmsnap.service.records import rebuild as rebuilding
from dmsnap.service.records.catalogue_backup import BackupResult
from dmsnap.service.records.catalogue_check import CheckResult
from dmsnap.service.records.rebuild import RebuildResult, RebuiltVolume
from dmsnap.service.session import Session
from dmsnap.service.volumes import recognition
from dmsnap.service.volumes.recognition import Recognised
from dmsnap.units import format_size


def show(output: Output, *, name: str) -> None:
    with Session.open() as session:
        found = recognition.recorded(session, name)
    output.show(found, describe_recorded)


def describe_recorded(found: Recognised) -> Iterator[Text]:
    yield f"{found.volume}, {found.state}; recorded {format_time(found.created_ns)}"
    yield f"  id        {found.id}"
    yield f"  device    {found.device or 'none'}, {format_size(found.size_bytes)}"
    yield f"  recovery  {found.recovery or 'none'}"
    yield f"  content   {' '.join((found.fs_type, found.fs_uuid)).strip() or 'not known'}"
    for mount in found.mounts:
        yield f"  mounted   {mount.mount_point} ({mount.fs_type}, {','.join(mount.options)})"
    for unit in found.units:
        yield f"  unit      {unit}"
    for each in found.identifiers:
        yield f"  {each.kind:<8}  {each.value} (seen {format_time(each.seen_ns)})"


def check(output: Output) -> ExitCode:
    with Session.open() as session:
        result = catalogue_check.check(session)
    output.show(result, describe_checked)
    return ExitCode.UNHEALTHY if result.problems else ExitCode.OK


def describe_checked(result: CheckResult) -> Iterator[Text]:
    yield from result.problems
    for name in result.skipped:
        yield f"the store of {name} was not looked at: a command works on the volume"
    if not result.problems:
        yield f"nothing is wrong with {result.catalogue}"


def backup(output: Output, *, names: tuple[str, ...], dry_run: bool) -> ExitCode:
    with Session.open() as session:
        found = catalogue_backup.back_up(session, names, dry_run=dry_run)
    output.show(found, describe_backups)
    return next((result.exit_code for result in found if result.error), ExitCode.OK)


def describe_backups(found: list[BackupResult]) -> Iterator[Text]:
    for result in found:
        size = format_size(result.packed_bytes or 0)
        if result.error:
            yield f"{result.volume}: {result.error}"
        elif result.written_ns is None:
            yield f"{result.volume} would be backed up on {result.device}, in {size}"
        else:
            yield (
                f"{result.volume} is backed up on {result.device} as of "
                f"{format_time(result.written_ns)}, in {size}"
            )


def rebuild(output: Output, *, dry_run: bool) -> ExitCode:
    result = rebuilding.rebuild(dry_run=dry_run)
    output.show(result, describe_rebuilt)
    return ExitCode.UNHEALTHY if result.problems else ExitCode.OK


def describe_rebuilt(result: RebuildResult) -> Iterator[Text]:
    if result.set_aside:
        yield f"the damaged catalogue is {result.set_aside} now"
    for volume in result.volumes:
        yield from describe_volume(volume, "recorded" if result.recorded else "would be recorded")
    for target in result.exports:
        yield f"the export by {target} {'recorded' if result.recorded else 'would be recorded'}"
    if not result.volumes and not result.exports:
        yield "nothing was found that is not recorded"
    for problem in result.problems:
        yield f"not recorded: {problem}"


def describe_volume(volume: RebuiltVolume, done: str) -> Iterator[Text]:
    yield (
        f"{volume.volume} {done}, {volume.state}: {volume.device or 'no device'}, recovery volume "
        f"{volume.recovery or 'none'}, {volume.points} points, {volume.pieces} pieces of its store"
    )
    if volume.backup_ns is not None:
        yield f"  with what was backed up at {format_time(volume.backup_ns)}"
    for note in volume.notes:
        yield f"  {note}"
