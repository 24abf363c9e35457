"""What holds for every unit test."""

import signal

# A shell gives the processes it starts in the background SIGINT ignored, and programs pass that on:
# tests of Ctrl-C would then test nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
