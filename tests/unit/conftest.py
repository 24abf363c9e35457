"""What holds for every unit test."""

import os
import signal

# A shell gives the processes it starts in the background SIGINT ignored, and programs pass that on:
# tests of Ctrl-C would then test nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# dmsnap refuses configuration files and hooks that the group can write to, and some umasks let it.
os.umask(0o022)
