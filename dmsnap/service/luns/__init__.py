"""LUNs that volumes lie on or recover to: the initiator's side."""
