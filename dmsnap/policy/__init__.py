"""What policies decide, as pure functions: no I/O, no clock, no randomness that is not given."""
