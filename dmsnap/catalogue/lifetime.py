"""How long points lived, in classes: by these those of one moment are found among a million.

A point was there at a moment when it was taken before and deleted later. An index by either alone
goes through all that were taken before, or all that were deleted since. What is known to have lived
for less than four times as long as others of its class was taken in a short time before the moment:
an index by class and creation goes through a few times as many points as are found.
"""

SECOND_NS = 10**9

# Points of a class lived for less than so many powers of four of seconds; 63 bits of nanoseconds
# have 34 bits of seconds.
CLASSES = range(18)


def class_of(created_ns: int, deleted_ns: int) -> int:
    """The class of a point. One that lived for less than no time, by its clock, is in the first."""
    return ((max(0, deleted_ns - created_ns) // SECOND_NS).bit_length() + 1) // 2


def taken_after_ns(number: int, time_ns: int) -> int:
    """The time after which a point of a class was taken that was there at ``time_ns``.

    Nothing was taken before the epoch: what would be earlier does not fit into 64 bits.
    """
    return max(time_ns - (1 << 2 * number) * SECOND_NS, -1)


def newest_deleted() -> str:
    """A query: the newest ``:count`` deleted points of ``:volume`` taken since ``:since_ns``.

    They are among the newest so many of each class, and an index gives no others than these.
    """
    of_classes = " UNION ALL ".join(
        "SELECT * FROM (SELECT * FROM point WHERE volume_id = :volume AND deleted_ns IS NOT NULL"  # noqa: S608
        f" AND lifetime_class = {number} AND created_ns >= :since_ns"
        f" ORDER BY created_ns DESC LIMIT :count) AS class_{number}"
        for number in CLASSES
    )
    return f"SELECT * FROM ({of_classes}) AS of_classes ORDER BY created_ns DESC LIMIT :count"  # noqa: S608
