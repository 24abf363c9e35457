"""What runs inside of guests, beside the scenarios."""
