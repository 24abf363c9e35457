"""What becomes of every operation when the plug is pulled at any of its steps."""
