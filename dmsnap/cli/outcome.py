"""What a command comes to that may be a dry run: the plan, or what was done."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from dmsnap.cli.output import Output, Text
from dmsnap.service.journal import Plan

Result = TypeVar("Result")


def show_outcome(
    output: Output, result: Result | Plan, describe: Callable[[Result], Iterable[Text]]
) -> None:
    """Write the plan of what would be done, or the result of what was."""
    if isinstance(result, Plan):
        output.show_plan(result)
    else:
        output.show(result, describe)


def show_done(output: Output, plan: Plan | None, done: Mapping[str, object], sentence: str) -> None:
    """The same for what has no result but that it was done: ``done`` in JSON, or a sentence."""
    if plan is not None:
        output.show_plan(plan)
    else:
        output.show(done, lambda _: [sentence])
