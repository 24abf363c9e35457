"""The catalogue."""

from collections.abc import Iterator

from dmsnap.cli.output import Output, Text
from dmsnap.errors import ExitCode
from dmsnap.service import rebuild as rebuilding
from dmsnap.service.rebuild import RebuildResult, RebuiltVolume


def rebuild(output: Output, *, dry_run: bool) -> ExitCode:
    result = rebuilding.rebuild(dry_run=dry_run)
    output.show(result, describe_rebuilt)
    return ExitCode.UNHEALTHY if result.problems else ExitCode.OK


def describe_rebuilt(result: RebuildResult) -> Iterator[Text]:
    if result.set_aside:
        yield f"the damaged catalogue is {result.set_aside} now"
    for volume in result.volumes:
        yield from describe_volume(volume, "recorded" if result.recorded else "would be recorded")
    if not result.volumes:
        yield "nothing was found that is not recorded"
    for problem in result.problems:
        yield f"not recorded: {problem}"


def describe_volume(volume: RebuiltVolume, done: str) -> Iterator[Text]:
    yield (
        f"{volume.volume} {done}, {volume.state}: {volume.device or 'no device'}, recovery volume "
        f"{volume.recovery or 'none'}, {volume.points} points, {volume.pieces} pieces of its store"
    )
    for note in volume.notes:
        yield f"  {note}"
