"""What a killed command left suspended is seen to, and what is suspended for a moment is not."""

from dmsnap.daemon.stranded import Stranded


def test_what_is_found_twice_is_concluded() -> None:
    found = [{"a"}, {"b"}, {"a", "b"}, {"b"}, set[str]()]
    begun: list[int] = []
    watch = Stranded(lambda: frozenset(found.pop(0)), lambda: begun.append(len(found)))
    while found:
        watch.look()
    assert begun == [2, 1]
