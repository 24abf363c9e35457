"""What is published as LUNs: the target's side."""
