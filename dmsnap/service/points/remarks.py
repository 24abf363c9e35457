"""What may be said of a point when it is taken, or later."""

from dmsnap.catalogue.clock import format_time, now_ns
from dmsnap.errors import WrongWordError

LONGEST_COMMENT = 200  # characters


def require_possible(expires_ns: int | None, comment: str | None) -> None:
    """Raise :class:`WrongWordError` for a time that is over, or a comment that is no line of text.

    None, 0 and no text say nothing. A comment comes to stand in tables and on terminals.
    """
    if expires_ns and expires_ns <= now_ns():
        raise WrongWordError(
            f"{format_time(expires_ns)} is over: a point cannot stay until then",
            hint="dmsnap point delete deletes a point",
        )
    if comment and (len(comment) > LONGEST_COMMENT or not comment.isprintable()):
        raise WrongWordError(
            f"a comment is one line of {LONGEST_COMMENT} characters at most, none of which does "
            f"something to a terminal"
        )
