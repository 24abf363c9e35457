"""What policies begin: timers, whose turn it is, hooks."""
