"""What can go wrong in the lab itself, as opposed to in the command that it runs."""

LAB_FAILED = 125
"""Exit status of the runner when the lab failed; every other status is COMMAND's own."""


class LabError(Exception):
    """The lab could not run COMMAND to its end; the sentence says why."""

    def __init__(self, sentence: str, *, hint: str | None = None) -> None:
        super().__init__(sentence)
        self.hint = hint
