"""The configuration: files read, checked as a whole, shown."""
