"""The host."""

from collections.abc import Iterator

from dmsnap.cli.output import Output, Text
from dmsnap.errors import ExitCode
from dmsnap.service.health import doctor as examination
from dmsnap.service.health.finding import Check, Level


def doctor(output: Output) -> ExitCode:
    checks = examination.doctor()
    well = examination.healthy(checks)
    output.show({"ok": well, "checks": checks}, lambda _: describe_checks(checks))
    return ExitCode.OK if well else ExitCode.FAILURE


def describe_checks(checks: list[Check]) -> Iterator[Text]:
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield f"{check.level:<7}  {check.name:<{width}}  {check.sentence}"
        if check.action and check.level is not Level.OK:
            yield f"{'':7}  {'':{width}}  to do: {check.action}"
    missing = sum(check.level is Level.MISSING for check in checks)
    warnings = sum(check.level is Level.WARNING for check in checks)
    yield f"{missing} missing, {warnings} warnings, {len(checks)} checks"
