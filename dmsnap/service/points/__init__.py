"""Points: taken, listed, mounted, kept, deleted, pruned."""
