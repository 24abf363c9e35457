"""Whether others tell the kernel the time, as by NTP. Needs no privileges."""

import ctypes

TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised to a reliable server
# Room for struct timex of any architecture. Its first field, modes, is 0: nothing is set.
TIMEX_BYTES = 512

_LIBC = ctypes.CDLL(None, use_errno=True)


def is_synchronised() -> bool:
    """Whether the wall clock is kept right, by whoever does that (chrony, ntpd, systemd-timesyncd).

    Who sets the clock by hand ends that in the kernel, and so does a server that was not heard of
    for some hours (kernel/time/ntp.c: ntp_clear, second_overflow). False where it may not be asked.
    """
    state: int = _LIBC.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return 0 <= state < TIME_ERROR
